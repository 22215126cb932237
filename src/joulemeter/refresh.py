"""When a counter is refreshed: a pace learned from refreshes that were seen to happen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

REFRESH_NS = 1_000_000
"""Intel SDM volume 3B: the energy status registers are "updated approximately every ~1 msec"."""
LOOK_NS = (4_000_000, 320_000_000)
"""How soon a counter is watched again as it moves: at first, and when its pace is well known."""
_NO_PACE_NS = (20_000_000, 2_000_000_000)
"""How soon a counter is watched again that showed no steady pace: at first, and after many tries."""
NEAR_NS = 60_000
"""What a moment may be off by; nearer to a refresh than this, nobody knows which side a read is on."""
_DOUBTS = (3, 8)
"""So many contradictions in a row, and the pace is not trusted; so many, and it is taken for unknown. One by
itself is a refresh that came late; learning anew costs as much as thirty looks at whether it holds."""
_FEWEST = 5
"""Of so many refreshes one more may have come late."""
_TOLERANCE = 0.1
"""How far, as a fraction of the period, a refresh may come from where it was expected."""


class Refresh:
    """When a counter is refreshed: a steady pace, learned from refreshes that were seen to happen.

    ``look_after_ns`` is how long the pace may be trusted before another refresh should be seen: it doubles
    while refreshes come where they are expected. What contradicts the pace raises doubts, and after some
    in a row it is forgotten.
    """

    def __init__(self) -> None:
        self.period_ns = float(REFRESH_NS)
        self.look_after_ns = LOOK_NS[0]
        self._edge_ns: float | None = None
        self._doubts = 0
        self._without_pace_ns = _NO_PACE_NS[0]

    @property
    def edge_ns(self) -> float:
        """The last refresh that is known of; 0 where the pace is not known."""
        return self._edge_ns or 0.0

    @property
    def known(self) -> bool:
        """Whether the pace is known."""
        return self._edge_ns is not None

    @property
    def trusted(self) -> bool:
        """Whether little has contradicted the pace since a refresh last came where it was expected."""
        return self.known and self._doubts < _DOUBTS[0]

    def acquire(self, edges_ns: list[int]) -> None:
        """Learns the pace from refreshes seen one after another, of which some may have been missed and one
        may have come late; where they come unsteadily, that there is none."""
        self._edge_ns, self._doubts = None, 0
        self.look_after_ns = self._without_pace_ns
        self._without_pace_ns = min(2 * self._without_pace_ns, _NO_PACE_NS[1])
        for kept in (edges_ns, *combinations(edges_ns, max(len(edges_ns) - 1, _FEWEST))):
            period_ns = _steady_ns(kept)
            if period_ns:
                self.period_ns, self._edge_ns = period_ns, float(kept[-1])
                self.look_after_ns, self._without_pace_ns = LOOK_NS[0], _NO_PACE_NS[0]
                return

    def learn(self, edge_ns: int) -> None:
        """Moves phase and period towards one more refresh that was seen."""
        if self._edge_ns is None:
            return
        periods = max(1, round((edge_ns - self._edge_ns) / self.period_ns))
        late_ns = edge_ns - (self._edge_ns + periods * self.period_ns)
        if abs(late_ns) > _TOLERANCE * self.period_ns:
            self.doubt()
            return
        self._doubts = 0
        self.period_ns += 0.5 * late_ns / periods
        self._edge_ns = edge_ns - 0.5 * late_ns
        steady = abs(late_ns) < NEAR_NS / 2
        wished_ns = self.look_after_ns * 2 if steady else self.look_after_ns // 2
        self.look_after_ns = min(max(wished_ns, LOOK_NS[0]), LOOK_NS[1])

    def doubt(self) -> None:
        """Something was seen that does not go with the pace: look again sooner."""
        self._doubts += 1
        self.look_after_ns = max(self.look_after_ns // 2, LOOK_NS[0])
        if self._doubts >= _DOUBTS[1]:
            self._edge_ns = None

    def before(self, t_ns: int) -> float:
        """The last refresh before ``t_ns``; ``t_ns`` itself where the pace is not known."""
        if self._edge_ns is None:
            return t_ns
        return self._edge_ns + (t_ns - self._edge_ns) // self.period_ns * self.period_ns

    def clear_of(self, t_ns: int) -> int:
        """How long to wait until a read is surely on one side of a refresh: 0 where it is already."""
        if self._edge_ns is None:
            return 0
        since_ns = t_ns - self.before(t_ns)
        if since_ns < NEAR_NS:
            return round(NEAR_NS - since_ns)
        to_next_ns = self.period_ns - since_ns
        return round(to_next_ns + NEAR_NS) if to_next_ns < NEAR_NS else 0


def _steady_ns(edges_ns: Sequence[int]) -> float:
    """The period of refreshes that came at a steady pace; 0 where they did not."""
    gaps = [later - earlier for earlier, later in pairwise(edges_ns)]
    if len(gaps) < 2 or min(gaps) < 4 * NEAR_NS:
        return 0.0
    counts = [round(gap / min(gaps)) for gap in gaps]
    period_ns = sum(gaps) / sum(counts)
    steady = all(abs(gap / period_ns - count) < _TOLERANCE for gap, count in zip(gaps, counts, strict=True))
    return period_ns if steady else 0.0
