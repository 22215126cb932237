"""What other programs on the machine may have drawn, in the intervals of what was metered beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from joulemeter.ledger import Energy, RailLedger, SiteRail
from joulemeter.posterior import is_resolved
from joulemeter.span import Site
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def disturbed(
    timeline: Timeline,
    rail: RailLedger,
    entries: Sequence[SiteRail],
    sites: Sequence[Site],
    times: tuple[Floats, Floats],
) -> tuple[RailLedger, list[SiteRail]]:
    """Intervals that know of other programs' load.

    What they drew is part of the power at idle, in proportion to the processors they took; while sites ran it
    may have been anything from none to twice of that (a uniform distribution). A processor that is full hides
    what a site draws: there it took the place of others. So each second of a site is that much less sure.
    """
    seen_s = (int(timeline.t_ns[-1]) - int(timeline.t_ns[0])) / 1e9 if len(timeline.t_ns) > 1 else 0.0
    if not seen_s > 0 or math.isnan(rail.idle.energy_j):
        return rail, list(entries)
    half_w = 1.96 * timeline.others / math.sqrt(3) * rail.idle.energy_j / seen_s
    most_j = rail.energy.high_j

    def wider(energy: Energy, seconds: float) -> Energy:
        """The energy with its interval, wider by what others may have drawn in ``seconds``."""
        up = math.hypot(energy.high_j - energy.energy_j, half_w * seconds)
        down = math.hypot(energy.energy_j - energy.low_j, half_w * seconds)
        high = max(energy.high_j, min(energy.energy_j + up, most_j))
        return Energy(energy.energy_j, max(0.0, energy.energy_j - down), high)

    whole_s, alone_s = times
    seconds = dict(zip((site.id for site in sites), alone_s.tolist(), strict=True))
    made = []
    for at, each in enumerate(entries):
        if each.elsewhere:
            made.append(each)
            continue
        joint_s = float(alone_s[at]) + sum(seconds[other] for other in each.confounded_with)
        own = wider(each.exclusive, float(alone_s[at]))
        made.append(
            replace(
                each,
                resolved=each.resolved and is_resolved(own),
                exclusive=own,
                inclusive=wider(each.inclusive, float(whole_s[at])),
                joint=None if each.joint is None else wider(each.joint, joint_s),
            )
        )
    return replace(rail, idle=wider(rail.idle, min(seen_s, float(alone_s.sum())))), made
