"""A data set from wherever it is: Joulemeter's own folder, or a published layout."""

from __future__ import annotations

from pathlib import Path

from joulemeter import dataset, importers
from joulemeter.dataset import Dataset
from joulemeter.errors import DatasetError


def load(path: str | Path, device: str | None = None) -> Dataset:
    """The data set at ``path``, only the records of ``device`` where one is named.

    Raises DatasetError where nothing knows the layout, or no record is of that device.
    """
    path = Path(path)
    found = dataset.read(path) if dataset.is_dataset(path) else _imported(path)
    if device is None:
        return found
    mine = found.filter(lambda record: record.device == device)
    if not mine.records:
        raise DatasetError(f"{path}: no record of '{device}'", f"one of {', '.join(found.devices)}")
    return mine


def _imported(path: Path) -> Dataset:
    read = importers.read(path)
    return Dataset(path.name, read.records, read.left_out + read.notes)
