"""What the tests of disturbed builds share."""

from infra.storage import Storage


def contents(dataset: Storage) -> dict[str, bytes]:
    """Every file of the dataset."""
    return {entry.path: dataset.read_bytes(entry.path) for entry in dataset.list_files(recursive=True)}
