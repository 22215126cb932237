"""Model formats: one file, one format, read into a Network of kernels; found by scanning this folder."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast

from joulemeter.errors import GraphError
from joulemeter.network import Network

MAX_NODES = 200_000
"""No network anyone runs has more nodes; a file that has is a mistake or an attack."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of inputs by name; the name ``""`` is the first input."""


class Format(Protocol):
    """What a file of this folder offers. ``SUFFIXES`` are the endings it reads, with their dot."""

    SUFFIXES: tuple[str, ...]

    def read(self, target: str, shapes: Shapes) -> Network:
        """The network in ``target`` for inputs of ``shapes``; raises GraphError where it cannot be read."""


@cache
def formats() -> dict[str, Format]:
    """Every format by suffix: those of this folder, then of ``joulemeter.graphs`` entry points."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__):
        file = cast("Format", importlib.import_module(f"{__name__}.{module.name}"))
        found.update(dict.fromkeys(file.SUFFIXES, file))
    for point in entry_points(group="joulemeter.graphs"):
        file = cast("Format", point.load())
        found.update(dict.fromkeys(file.SUFFIXES, file))
    return found


def read(target: str, shapes: Shapes | None = None, train: bool = False) -> Network:
    """The network in the file ``target``, or made by ``module:function``; with ``train`` as it is trained,
    where the format can tell (its file has a ``read_training``).

    Raises GraphError where the ending is not known, the file is not there, cannot be read into kernels, or is
    not of ``shapes``.
    """
    suffix = next((each for each in formats() if each != ":" and target.endswith(each)), None)
    if suffix is None and ":" in target:
        suffix = ":"
    if suffix is None:
        known = ", ".join(sorted(each for each in formats() if each != ":"))
        raise GraphError(
            f"{target}: not a network this can read", f"a file ending in {known}, or module:function"
        )
    if suffix != ":":
        _refuse_unreadable(Path(target), suffix)
    format_ = formats()[suffix]
    reading = getattr(format_, "read_training", format_.read) if train else format_.read
    network: Network = reading(target, shapes or {})
    _as_asked(network, shapes or {})
    return network


def _refuse_unreadable(path: Path, suffix: str) -> None:
    """Raises GraphError where ``path`` is not there or may not be read; a folder is the format's to judge."""
    try:
        if not os.path.isdir(path):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        raise GraphError(f"{path}: no such file", _beside(path, suffix)) from None
    except OSError as error:
        raise GraphError(f"{path}: cannot be read ({error.strerror})", "a copy that you may read") from error


def _beside(path: Path, suffix: str) -> str:
    """The files of that ending beside ``path``, those with the nearest names; else what is wanted."""
    names = [each.name for each in path.parent.glob(f"*{suffix}")]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.0)
    return " or ".join(str(path.with_name(name)) for name in near) or f"the path of a {suffix} file"


def _as_asked(network: Network, shapes: Shapes) -> None:
    """Raises GraphError where a shape was given that no input of ``network`` has."""
    for name, shape in shapes.items():
        held = list(network.inputs.values()) if not name else [network.inputs.get(name)]
        if network.inputs and shape not in held:
            known = ", ".join(f"{each} {tuple(size)}" for each, size in network.inputs.items())
            asked = f"input {name} of {shape}" if name else f"input of {shape}"
            raise GraphError(f"{network.name}: has no {asked}", f"--input for one of these: {known}")


def shape_of(name: str, first: bool, shapes: Shapes) -> tuple[int, ...] | None:
    """The shape given for input ``name``; the nameless one is meant for the first input."""
    return shapes.get(name, shapes.get("") if first else None)
