"""Definitions of networks without trained weights: what a device's data set is made of at the model level.

One file, one kind; found by scanning this folder. Each name gives any number of variants, drawn with
resampled channels, kernel sizes, depths and images, as the published data sets do.
"""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, cast

from joulemeter.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

VARIANTS = 50
"""How many variants of each published family the published data sets have."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A network to be built: ``build()`` makes the module (random weights, evaluation mode) and its
    arguments, random too: images of zeros run faster than real ones (pooling's comparisons never turn).
    """

    name: str
    build: Callable[[], tuple[Any, tuple[Any, ...]]]


class Kind(Protocol):
    """What a file of this folder offers."""

    NAMES: tuple[str, ...]

    def variant(self, name: str, rng: np.random.Generator) -> Callable[[], tuple[Any, tuple[Any, ...]]]:
        """A function that builds one variant and its example arguments."""


@cache
def kinds() -> dict[str, Kind]:
    """Every network's name with the file that defines it."""
    found: dict[str, Kind] = {}
    for module in pkgutil.iter_modules(__path__):
        file = cast("Kind", importlib.import_module(f"{__name__}.{module.name}"))
        found.update(dict.fromkeys(file.NAMES, file))
    return found


def variant(name: str, index: int) -> Definition:
    """Variant ``index`` of the network ``name``: always the same one. Raises UsageError for an unknown
    name.
    """
    import numpy as np

    if name not in kinds():
        raise UsageError(f"there is no network '{name}'", f"one of {', '.join(sorted(kinds()))}")

    def build() -> tuple[Any, tuple[Any, ...]]:
        """Module and inputs of this variant, the same each time."""
        rng = np.random.default_rng([zlib.crc32(name.encode()), index])
        return kinds()[name].variant(name, rng)()

    return Definition(f"{name}-{index}", build)
