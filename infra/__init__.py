"""The ground floor: storage, the Ray cluster connection, progress and errors. Knows nothing of images or models."""
