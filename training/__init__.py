"""Datasets to models: sample order, loader, losses, the DeepSpeed engine, checkpoints and evaluation."""
