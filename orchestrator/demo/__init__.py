"""The demo's own pieces: a real labelled picture set, and a local web that serves it with the web's usual faults."""
