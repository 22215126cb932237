"""One file, one meter. Plugins are found by scanning this folder and the entry points of other packages.

A file offers ``open(argument)``, which returns a `Source` or raises `SourceUnavailable`; the group
``joulemeter.sources`` of entry points names modules that offer the same. Files that start with ``fake_``
are stand-ins for a vendor's library, not meters.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from joulemeter.errors import SourceUnavailable, UsageError
from joulemeter.reading import Source

ENTRY_POINTS = "joulemeter.sources"
FALLBACK = "estimate"
"""What is used where no meter answers."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A meter that cannot be used here: why not, and what to do."""

    spec: str
    fact: str
    remedy: str

    def __str__(self) -> str:
        return str(SourceUnavailable(self.fact, self.remedy))


@dataclass(frozen=True, slots=True)
class Discovery:
    """What this machine can be metered with: the specs to open, and why every other meter is not there."""

    specs: tuple[str, ...]
    refusals: tuple[Refusal, ...]

    @property
    def metered(self) -> bool:
        """Whether a real meter answers; else the specs hold only an estimate."""
        return FALLBACK not in self.specs


def names() -> tuple[str, ...]:
    """Every source there is, by name: the files of this folder, then other packages' entry points."""
    files = (module.name for module in pkgutil.iter_modules(__path__))
    own = sorted(name for name in files if not name.startswith("fake_"))
    return (*own, *(name for name in sorted(_foreign()) if name not in own))


def open_spec(spec: str) -> Source:
    """The source that ``spec`` names: ``rapl``, ``rapl:/other/sysfs``, ``replay:run-folder``.

    Raises UsageError for a name nobody offers and SourceUnavailable, with the remedy, for a meter that
    does not answer.
    """
    name, _, argument = spec.partition(":")
    source: Source = _module(name).open(argument)
    return source


def split_specs(text: str) -> list[str]:
    """The specs of a comma-separated list; a word that names no source goes on the argument before it:
    ``rapl,simulated:idle=20,busy=100,nvml:0,2`` is three."""
    known = names()
    specs: list[str] = []
    for word in filter(None, text.split(",")):
        if specs and ":" in specs[-1] and word.partition(":")[0] not in known:
            specs[-1] += "," + word
        else:
            specs.append(word)
    return specs


def default_specs() -> list[str]:
    """What to meter with where nobody says: every meter of this machine that answers, else the estimate."""
    return list(discover().specs)


def discover() -> Discovery:
    """Tries every meter of this machine: those that answer, else the estimate. Opens and closes each once."""
    specs: list[str] = []
    refusals: list[Refusal] = []
    for name in meters():
        try:
            open_spec(name).close()
        except SourceUnavailable as refusal:
            refusals.append(Refusal(name, refusal.fact, refusal.remedy))
        else:
            specs.append(name)
    return Discovery(tuple(specs) or (FALLBACK,), tuple(refusals))


def meters() -> tuple[str, ...]:
    """The sources that meter this machine: those whose module says so by ``METERS_THIS_MACHINE = True``."""
    return tuple(name for name in names() if getattr(_module(name), "METERS_THIS_MACHINE", False))


def _module(name: str) -> ModuleType:
    if name not in names():
        raise UsageError(f"there is no source '{name}'", f"one of {', '.join(names())}")
    foreign = _foreign().get(name)
    return importlib.import_module(f"{__name__}.{name}" if foreign is None else foreign)


@cache
def _foreign() -> dict[str, str]:
    # importlib.metadata reads every installed package's metadata: some ms, so once.
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
