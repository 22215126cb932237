"""Tables to train on: the BUTTER study's, scikit-learn's, local copies, or stand-ins of the same dimensions.

The study's encoding: constant columns are dropped; two values become one 0/1 column; at most twenty values,
or values that are no numbers, become one column each; everything else is scaled to 0 … 1. Targets likewise,
so that one column of two values is a binary task, several columns are classes, one column of more values is a
regression.
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from joulemeter import butter
from joulemeter.butter import Facts
from joulemeter.errors import DatasetError, UsageError

Task = Literal["regression", "binary", "classification"]
Array = NDArray[np.float32]
FEW = 20
"""A column of at most this many values is one-hot encoded."""
STAND_IN = "stand-in"
REGRESSIONS = ("505_tecator", "529_pollen", "537_houses")
BUNDLED = {
    "sklearn_breast_cancer": Facts(569, 30, 1),
    "sklearn_diabetes": Facts(442, 10, 1),
    "sklearn_digits": Facts(1797, 64, 10),
    "sklearn_iris": Facts(150, 4, 3),
    "sklearn_wine": Facts(178, 13, 3),
}
"""scikit-learn's own tables, which need no network. Inputs as encoded are counted when they are read."""


@dataclass(frozen=True)
class Table:
    """Encoded rows: ``inputs`` (n, inputs), ``targets`` (n, outputs), and where they come from."""

    inputs: Array
    targets: Array
    task: Task
    source: str

    @property
    def facts(self) -> Facts:
        """Its rows, inputs and outputs."""
        return Facts(len(self.inputs), self.inputs.shape[1], self.targets.shape[1])


@lru_cache
def facts(name: str) -> Facts:
    """Rows, inputs and outputs of a data set, without the network. Raises UsageError for an unknown one."""
    if name in butter.DATASETS:
        return butter.DATASETS[name]
    if name in BUNDLED:
        return bundled(name).facts
    known = ", ".join((*butter.DATASETS, *BUNDLED))
    raise UsageError(f"there is no data set '{name}'", f"one of {known}")


def cache() -> Path:
    """Where encoded tables are kept: ``$XDG_CACHE_HOME/joulemeter/tables``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "joulemeter" / "tables"


def prepare(name: str, folder: Path, *, network: bool = True) -> str:
    """Makes ``name`` ready in ``folder`` and says where it came from: a copy there, PMLB, or ``stand-in``.

    A copy is ``NAME.tsv.gz``, ``NAME.tsv`` or ``NAME.csv`` with a column ``target``, in ``folder`` or in its
    ``NAME/`` (the layout of PMLB). Raises DatasetError where a copy has other dimensions than the study's.
    """
    facts(name)
    if name in BUNDLED:
        return "scikit-learn"
    if (folder / f"{name}.npz").exists():
        return load(name, folder).source
    found = next((path for path in _copies(name, folder) if path.exists()), None)
    table = _of_file(name, found) if found else _of_pmlb(name, folder) if network else None
    if table is None:
        return STAND_IN
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{name}.{os.getpid()}.partial"
    with partial.open("wb") as file:
        np.savez_compressed(
            file, inputs=table.inputs, targets=table.targets, task=table.task, source=table.source
        )
    partial.replace(folder / f"{name}.npz")
    return table.source


def load(name: str, folder: Path) -> Table:
    """The table as ``prepare`` left it; where it left none, a stand-in. Never asks the network."""
    if name in BUNDLED:
        return bundled(name)
    path = folder / f"{name}.npz"
    if not path.exists():
        return stand_in(name)
    try:
        with np.load(path) as data:
            return Table(data["inputs"], data["targets"], str(data["task"]), str(data["source"]))  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: cannot be read ({error})", "remove it") from error


def source(name: str, folder: Path) -> str:
    """Where the table that ``load`` would give comes from; only that is read."""
    if name in BUNDLED:
        return "scikit-learn"
    path = folder / f"{name}.npz"
    if not path.exists():
        return STAND_IN
    with np.load(path) as data:
        return str(data["source"])


def stand_in(name: str) -> Table:
    """Random rows, as many and as wide as those of ``name``: energy follows shapes, losses do not."""
    known = facts(name)
    rng = np.random.default_rng(sum(map(ord, name)))
    inputs = rng.random((known.rows, known.inputs), dtype=np.float32)
    score = inputs @ rng.standard_normal((known.inputs, known.outputs), dtype=np.float32)
    if known.outputs > 1:
        targets = np.eye(known.outputs, dtype=np.float32)[score.argmax(axis=1)]
        return Table(inputs, targets, "classification", STAND_IN)
    if name in REGRESSIONS:
        low, high = score.min(), score.max()
        return Table(inputs, (score - low) / (high - low), "regression", STAND_IN)
    return Table(inputs, (score > np.median(score)).astype(np.float32), "binary", STAND_IN)


@lru_cache
def bundled(name: str) -> Table:
    """One of scikit-learn's own tables, encoded."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{name.removeprefix('sklearn_')}")()
    return encode(list(data.data.T), data.target, "scikit-learn")


def encode(columns: list[NDArray[Any]], target: NDArray[Any], source: str) -> Table:
    """Columns and target by the study's rule (see the module); raises DatasetError where nothing is left."""
    parts = [part for column in columns if (part := _encoded(column)) is not None]
    targets = _encoded(target)
    if not parts or targets is None:
        raise DatasetError(f"{source}: no column of the table varies, or not its target", "another copy")
    task: Task = "classification" if targets.shape[1] > 1 else "regression"
    if targets.shape[1] == 1 and len(np.unique(targets)) == 2:
        task = "binary"
    return Table(np.concatenate(parts, axis=1), targets, task, source)


def _encoded(column: NDArray[Any]) -> Array | None:
    distinct, codes = np.unique(column, return_inverse=True)
    if len(distinct) < 2:
        return None
    if len(distinct) == 2:
        return codes.astype(np.float32)[:, None]
    if len(distinct) <= FEW or not np.issubdtype(distinct.dtype, np.number):
        return np.eye(len(distinct), dtype=np.float32)[codes]
    low, high = float(distinct[0]), float(distinct[-1])
    return ((column.astype(float) - low) / (high - low)).astype(np.float32)[:, None]


def _copies(name: str, folder: Path) -> list[Path]:
    files = [f"{name}{ending}" for ending in (".tsv.gz", ".tsv", ".csv")]
    return [folder / place / file for place in ("", name) for file in files]


def _of_file(name: str, path: Path) -> Table:
    from pyarrow import ArrowException, csv

    options = csv.ParseOptions(delimiter="," if path.suffix == ".csv" else "\t")
    try:
        table = csv.read_csv(path, parse_options=options)
        columns = {column: table[column].to_numpy() for column in table.column_names}
        target = columns.pop("target")
    except (OSError, ArrowException, KeyError) as error:
        raise DatasetError(
            f"{path}: is no table with a column 'target' ({error})",
            "PMLB's own file, or CSV with that heading",
        ) from error
    return _checked(name, encode(list(columns.values()), target, f"copy:{path.name}"))


def _of_pmlb(name: str, folder: Path) -> Table | None:
    try:
        import pmlb
    except ImportError:
        return None
    try:
        inputs, target = pmlb.fetch_data(name, return_X_y=True, local_cache_dir=str(folder))
    except (OSError, ValueError):
        # No network, or a proxy's page in place of the table: a stand-in serves, and the record says so.
        return None
    return _checked(name, encode(list(np.asarray(inputs).T), np.asarray(target), "pmlb"))


def _checked(name: str, table: Table) -> Table:
    known = facts(name)
    if (table.facts.inputs, table.facts.outputs) != (known.inputs, known.outputs):
        raise DatasetError(
            f"{table.source}: {name} has {table.facts.inputs} inputs and {table.facts.outputs} outputs as "
            f"encoded, the study {known.inputs} and {known.outputs}",
            "another copy",
        )
    return table
