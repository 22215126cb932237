"""Which sites a rail feeds: a device's kernels draw on the device, what launches them on its host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.ledger import RailLedger, SiteRail
from joulemeter.reading import Rail
from joulemeter.span import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEVICES = ("nvml",)
"""Sources that meter devices by themselves."""

PROCESSORS = ("rapl", "estimate")
"""Sources that meter a host's processors, and so whatever else runs on them."""

PLATFORM = "psys"
"""RAPL's zone of the whole machine, devices included."""


def fed(rail: Rail, rails: Sequence[Rail], sites: Sequence[Site]) -> NDArray[np.bool_]:
    """Which sites (s,) can have drawn on ``rail``, given all ``rails`` of the run.

    Where kernels were recorded, a device's rail feeds them alone: no call that launches or awaits them, nor
    the run as a whole, so that what it draws between kernels nothing explains. The processors' rail feeds all
    but kernels, if the device has a rail of its own. Where none were recorded, calls stand for them.
    """
    kernel: NDArray[np.bool_] = np.array([site.kind == "kernel" for site in sites], bool)
    if not kernel.any():
        return np.ones(len(sites), bool)
    if rail.source in DEVICES:
        return kernel
    metered = any(each.source in DEVICES and each.host == rail.host for each in rails)
    if metered and rail.source in PROCESSORS and PLATFORM not in rail.name:
        return np.logical_not(kernel)
    return np.ones(len(sites), bool)


def told(
    rail: RailLedger, entries: Sequence[SiteRail], some: NDArray[np.bool_]
) -> tuple[RailLedger, list[SiteRail]]:
    """The same with what is certain beforehand: a rail gives nothing to sites that it does not feed."""
    if some.all():
        return rail, list(entries)
    what = "kernels alone" if rail.rail.source in DEVICES else "no kernels, which have rails of their own"
    made = [each if fed else replace(each, resolved=True) for each, fed in zip(entries, some, strict=True)]
    return replace(rail, notes=(*rail.notes, f"feeds {what}")), made
