"""When a counter is refreshed: a pace learned from refreshes that were seen to happen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

REFRESH_NS = 1_000_000
"""Intel SDM volume 3B: the energy status registers are "updated approximately every ~1 msec"."""
LOOK_NS = (4_000_000, 320_000_000)
"""How soon a counter is watched again as it moves: at first, and when its pace is well known."""
_NO_PACE_NS = (2_000_000, 2_000_000_000)
"""How soon a counter is watched again that showed no steady pace: at first, and after many tries."""
NEAR_NS = 60_000
"""What a moment may be off by; nearer to a refresh than this, nobody knows which side a read is on."""
_DOUBTS = (5, 8)
"""So many contradictions in a row, and the pace is not trusted; so many, and it is taken for unknown. One by
itself is a refresh that came late; learning anew costs as much as thirty looks at whether it holds."""
_FEWEST = (3, 5)
"""So many refreshes show a pace if all of them keep it; so many, where others come late."""
_TOLERANCE = 0.1
"""How far, as a fraction of the period, a refresh may come from where it was expected."""
_SEEN_NS = (5_000.0, 20_000.0)
"""How well one refresh is seen, as a standard deviation: at best, and usually."""
_WANDER_NS = (300.0, 0.05)
"""How far the refreshes and their period wander in one period, as standard deviations."""


class Refresh:
    """When a counter is refreshed: a steady pace, learned from refreshes that were seen to happen.

    ``look_after_ns`` is how long the pace may be trusted before another refresh should be seen: it doubles
    while refreshes come where they are expected. What contradicts the pace raises doubts, and after some
    in a row it is forgotten. Edge and period are tracked by the filter of Kalman (1960, J. Basic Eng. 82,
    35): what is known well already moves little for one refresh that came late.
    """

    def __init__(self) -> None:
        self.period_ns = float(REFRESH_NS)
        self.look_after_ns = LOOK_NS[0]
        self._edge_ns: float | None = None
        self._variance = (0.0, 0.0, 0.0)
        """Of the edge, of edge with period, and of the period."""
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
    def trusted_until_ns(self) -> int:
        """As long as refreshes can be told to within ``NEAR_NS``; 0 where the pace is not known, or where
        much has contradicted it since a refresh last came where it was expected."""
        return self._sure_until_ns(NEAR_NS) if self._doubts < _DOUBTS[0] else 0

    @property
    def counted_until_ns(self) -> int:
        """As long as it can be told how many refreshes have gone by; 0 where the pace is not known."""
        return self._sure_until_ns(_TOLERANCE * self.period_ns)

    def error_ns(self, t_ns: int) -> float:
        """How far a refresh around ``t_ns`` may be from where the pace puts it, as a standard deviation."""
        edge, both, period = self._variance
        periods = max(0.0, (t_ns - self.edge_ns) / self.period_ns)
        return math.sqrt(edge + periods * (2 * both + periods * period + _WANDER_NS[0] ** 2))

    def _sure_until_ns(self, error_ns: float) -> int:
        """Until when `error_ns` stays below ``error_ns``."""
        if self._edge_ns is None:
            return 0
        edge, both, period = self._variance
        linear, spare = 2 * both + _WANDER_NS[0] ** 2, max(0.0, error_ns**2 - edge)
        periods = 2 * spare / (linear + math.sqrt(linear**2 + 4 * period * spare))
        return round(self._edge_ns + periods * self.period_ns)

    def acquire(self, edges_ns: list[int]) -> None:
        """Learns the pace from refreshes seen one after another, of which some may have been missed and two
        of seven come late; where they come unsteadily, that there is none."""
        self._edge_ns, self._doubts = None, 0
        self.look_after_ns = self._without_pace_ns
        self._without_pace_ns = min(2 * self._without_pace_ns, _NO_PACE_NS[1])
        fit = _steady(edges_ns)
        if fit is not None:
            self.period_ns, self._edge_ns, self._variance = fit.period_ns, fit.edge_ns, fit.variance
            self.look_after_ns, self._without_pace_ns = LOOK_NS[0], _NO_PACE_NS[0]

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
        edge, both, period = self._variance
        edge += periods * (2 * both + periods * period + _WANDER_NS[0] ** 2)
        both += periods * period
        period += periods * _WANDER_NS[1] ** 2
        share, pull = edge / (edge + _SEEN_NS[1] ** 2), both / (edge + _SEEN_NS[1] ** 2)
        self._variance = ((1 - share) * edge, (1 - share) * both, period - pull * both)
        self._edge_ns = edge_ns - (1 - share) * late_ns
        self.period_ns += pull * late_ns
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


@dataclass(frozen=True, slots=True)
class _Fit:
    """A pace through refreshes, with the variances of the last refresh, of that with the period, and of the
    period. Of several, the best has the most ``seen``, in the fewest ``periods``."""

    seen: int
    periods: int
    error_ns: float
    edge_ns: float
    period_ns: float
    variance: tuple[float, float, float]


def _steady(edges_ns: Sequence[int]) -> _Fit | None:
    """The steady pace that most of the refreshes keep: any two of them with at most one missed in between
    propose one (random sample consensus, Fischler and Bolles 1981, Commun. ACM 24, 381; here all pairs)."""
    fits: list[_Fit] = []
    for (first, first_ns), (second, second_ns) in combinations(enumerate(edges_ns), 2):
        for periods in (second - first, second - first + 1):
            period_ns = (second_ns - first_ns) / periods
            if period_ns < 4 * NEAR_NS:
                continue
            kept = {round((edge - first_ns) / period_ns): edge for edge in edges_ns}
            kept = {n: edge for n, edge in kept.items() if abs(edge - first_ns - n * period_ns) < NEAR_NS / 2}
            if len(kept) >= min(max(_FEWEST[0], len(edges_ns)), _FEWEST[1]):
                fits.append(_line(list(kept), list(kept.values())))
    return min(fits, key=lambda fit: (-fit.seen, fit.periods, fit.error_ns), default=None)


def _line(numbers: Sequence[int], edges_ns: Sequence[int]) -> _Fit:
    """The line through refreshes of which it is known how many periods they lie apart, by least squares."""
    seen = len(numbers)
    mean, mean_ns = sum(numbers) / seen, sum(edges_ns) / seen
    spread = sum((number - mean) ** 2 for number in numbers)
    pairs = list(zip(numbers, edges_ns, strict=True))
    period_ns = sum((number - mean) * (edge - mean_ns) for number, edge in pairs) / spread
    off_ns = (edge - mean_ns - (number - mean) * period_ns for number, edge in pairs)
    error_ns = max(_SEEN_NS[0], math.hypot(*off_ns) / math.sqrt(seen - 2))
    period, since = error_ns**2 / spread, numbers[-1] - mean
    variance = (error_ns**2 / seen + since**2 * period, since * period, period)
    return _Fit(seen, numbers[-1] - numbers[0], error_ns, mean_ns + since * period_ns, period_ns, variance)
