"""Configs to start from: published ones, and a few for everyday work. Listed and printed by `diptych recipes`."""
