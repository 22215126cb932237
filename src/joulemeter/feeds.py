"""Which sites a rail feeds: a device's kernels draw on the device, what launches them on its host."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.ledger import UNKNOWN, RailLedger, SiteRail
from joulemeter.occupancy import Occupancy
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEVICES = ("nvml",)
"""Sources that meter devices by themselves."""

PROCESSORS = ("rapl", "estimate")
"""Sources that meter a host's processors, and so whatever else runs on them."""

PLATFORM = "psys"
"""RAPL's zone of the whole machine, devices included."""


_LANE = re.compile(r"\b(gpu-\d+) stream ")
"""A lane that is named after the rail of its device; others do not say which device they are of."""


def device(rail: Rail) -> str:
    """The device that a rail meters by itself, as lanes call it; empty for a rail of anything else."""
    return rail.name.partition("/")[0] if rail.source in DEVICES else ""


def elsewhere(rail: Rail, spans: Spans, lanes: Sequence[str]) -> NDArray[np.bool_]:
    """Which spans (n,) ran on another device than the one that ``rail`` meters, as far as the names of their
    ``lanes`` tell."""
    mine = device(rail)
    return _ran_on(spans, lanes, lambda each: mine not in ("", each))


def unmetered(rails: Sequence[Rail], spans: Spans, lanes: Sequence[str]) -> NDArray[np.bool_]:
    """Which spans (n,) ran on a device that has no rail, while others have: nobody saw what they drew."""
    seen = {device(rail) for rail in rails} - {""}
    return _ran_on(spans, lanes, lambda each: bool(seen) and each not in seen)


def _ran_on(spans: Spans, lanes: Sequence[str], wanted: Callable[[str], bool]) -> NDArray[np.bool_]:
    found = {at: match.group(1) for at, name in enumerate(lanes) if (match := _LANE.search(name))}
    mine = [at for at, each in found.items() if wanted(each)]
    return np.isin(spans.lane, mine) if mine else np.zeros(len(spans), bool)


def fed(rail: Rail, rails: Sequence[Rail], occupancy: Occupancy) -> NDArray[np.bool_]:
    """Which sites (s,) can have drawn on ``rail``, given all ``rails`` of the run and what ran on its device.

    Where kernels were recorded, a device's rail feeds them alone: no call that launches or awaits them, nor
    the run as a whole, so that what it draws between kernels nothing explains. The processors' rail feeds all
    but kernels, if the device has a rail of its own. Where none were recorded, calls stand for them.
    """
    kernel: NDArray[np.bool_] = np.array([site.kind == "kernel" for site in occupancy.sites], bool)
    if not kernel.any():
        return np.ones(len(kernel), bool)
    if rail.source in DEVICES:
        return kernel & (occupancy.calls > 0)
    metered = any(each.source in DEVICES and each.host == rail.host for each in rails)
    if metered and rail.source in PROCESSORS and PLATFORM not in rail.name:
        return np.logical_not(kernel)
    return np.ones(len(kernel), bool)


def told(
    rail: RailLedger, entries: Sequence[SiteRail], some: NDArray[np.bool_]
) -> tuple[RailLedger, list[SiteRail]]:
    """The same with what is certain beforehand: a rail gives nothing to sites that it does not feed."""
    if some.all():
        return rail, list(entries)
    what = "kernels alone" if rail.rail.source in DEVICES else "no kernels, which have rails of their own"
    made = [each if fed else replace(each, resolved=True) for each, fed in zip(entries, some, strict=True)]
    return replace(rail, notes=(*rail.notes, f"feeds {what}")), made


UNSEEN = (
    "kernels ran on a GPU that no meter was asked for: what they drew is not known (--source nvml meters all)"
)


def unseen(
    rails: Sequence[RailLedger], entries: Sequence[list[SiteRail]], sites: Sequence[Site], dark: Spans
) -> list[list[SiteRail]]:
    """The same where the spans ``dark`` ran on a device without a rail: a site that ran on no other drew what
    nobody knows, and not nothing."""
    ran = set(np.unique(dark.site).tolist())
    silent = [site.kind == "kernel" and site.id in ran for site in sites]

    def dark_there(each: SiteRail) -> SiteRail:
        """The entry of a site that a device's rail does not feed, where it ran on a device that has none."""
        return replace(each, resolved=False, exclusive=UNKNOWN, inclusive=UNKNOWN)

    return [
        [
            dark_there(each) if hidden and each.elsewhere and device(rail.rail) else each
            for each, hidden in zip(mine, silent, strict=True)
        ]
        for rail, mine in zip(rails, entries, strict=True)
    ]
