"""Importers of published layouts: one file, one layout; found by scanning this folder.

An importer turns foreign files into records with SI units and known words, leaves out the rows that say
nothing, and counts them in words. It changes no figure: what is doubtful is the data set check's to find.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from joulemeter.errors import DatasetError
from joulemeter.record import Record

TABLE = "a whole copy of it, CSV in UTF-8, gzipped or not"
"""What to do where a table cannot be read."""


@dataclass(frozen=True, slots=True)
class Imported:
    """Records of a foreign layout, and in words what was left out or is known about the whole."""

    records: tuple[Record, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Importer(Protocol):
    """What a file of this folder offers; ``LAYOUT`` names the layout for the reader."""

    LAYOUT: str

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` (a file or a folder) has this layout."""

    def read(self, path: Path) -> Imported:
        """Its records; raises DatasetError where it is torn."""


@cache
def importers() -> tuple[Importer, ...]:
    """Every importer of this folder, by file name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return tuple(cast("Importer", importlib.import_module(f"{__name__}.{name}")) for name in names)


def read(path: Path) -> Imported:
    """The records in ``path``, whatever layout it has.

    Raises DatasetError where it is not there, or no importer knows its layout.
    """
    if not path.exists():
        raise DatasetError(f"{path}: is not there", "joulemeter bench -o FOLDER makes a data set")
    for importer in importers():
        if importer.recognises(path):
            return importer.read(path)
    known = ", ".join(importer.LAYOUT for importer in importers())
    raise DatasetError(f"{path}: is no data set and has none of the known layouts", f"one of: {known}")


def head(path: Path, size: int = 4096) -> str:
    """The first characters of a text file (also gzipped); empty for a folder or another kind of file."""
    import gzip

    if not path.is_file():
        return ""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            return file.read(size).decode("utf-8", "replace")
    except (OSError, EOFError):
        return ""


def number(text: object) -> float:
    """A finite number from a cell; NaN where there is none ("0.91 +- 0.01" is 0.91)."""
    import math

    if isinstance(text, int | float):
        return float(text) if math.isfinite(text) else math.nan
    try:
        value = float(str(text).split("+-")[0].split("±")[0])
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
