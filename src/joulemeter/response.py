"""A meter's lag and averaging window: taken from its rail where known, else the pair that makes its
readings likeliest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg, sparse

from joulemeter import ages
from joulemeter.columns import apart, unusual_calls
from joulemeter.design import Design, Response, Windows, counts, hats, smeared_ns, windows
from joulemeter.excerpt import Elapsed, excerpt_of, nearby
from joulemeter.glitches import glitches
from joulemeter.idle import Idle
from joulemeter.nesting import parts
from joulemeter.noise import Noise, Prior, belief, evidence, evidence_with_tails, fit_noise, no_extra
from joulemeter.occupancy import Occupancy, around, busy_stretches
from joulemeter.reading import Rail
from joulemeter.stretches import Stretches
from joulemeter.timeline import Timeline

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

SITES = 24
"""Sites that keep a power of their own while the response is sought; the others share one."""

GAP = 0.01
"""Part of the spans' time from which on what no span explains may draw power of its own while the response is
sought."""

EACH_WINDOW = 6
"""The same of each single window."""

SHORTLIST = 48
"""Pairs of lag and window, likely at a glance, that are weighed with care."""

WINDOWS = 8
"""Averaging windows that are weighed each with the noise that it leaves."""

LEFT = 200
"""Pairs that stay to be weighed again."""

LONGEST_TICK_NS = 100_000_000
LONGEST_LAG_NS = 600_000_000
LONGEST_WINDOW_NS = 2_000_000_000

BARELY = 10.0
"""How much less likely, as a logarithm, a response may be than the likeliest and still count."""

MOST_MODES = 3
"""Responses that are carried through the estimate where readings do not tell between them."""

FAR_OFF = 4.0
"""Times as large as was taken at first noise is from which on all responses are weighed again."""

USUAL_WINDOWS_NS = tuple(each * 1_000_000 for each in (10, 25, 50, 100, 200, 500, 1000))
"""Averaging windows that makers of meters choose: round figures."""

USUAL_WINDOW = 8.0
"""How much likelier beforehand, as a logarithm, a window of the meter's own period is than any other."""


@dataclass(frozen=True, slots=True)
class Found:
    """A response, how likely the readings are under it (a logarithm), and how far its lag and window may be
    off."""

    response: Response
    score: float
    lag_sigma_ns: float
    window_sigma_ns: float


def estimate(
    timeline: Timeline, occupancy: Occupancy, own: Floats, gap: Stretches, idle: Idle
) -> list[Found]:
    """Responses of a rail's meter, the likeliest first; ``own`` (n,) are seconds that each span ran by
    itself, ``gap`` is what no span explains, ``idle`` a first figure of idle power."""
    rail = timeline.rail
    step = timeline.spacing_ns
    gauge = rail.kind == "gauge"
    told = stated(timeline)
    lag_known, window_known = rail.lag_ns is not None, not gauge or rail.window_ns is not None
    if len(timeline.t_ns) < 8 or not len(occupancy):
        return [Found(told, 0.0, 0.05 * step, 0.0)]
    # A first call that compiles draws what its site never draws again: it would pass for another lag.
    odd = unusual_calls(occupancy, own, step / 1e9)[:SITES]
    search = _Search(timeline, apart(occupancy, odd), gap, idle, told, SITES + len(odd))
    pairs = _first_pairs(told, lag_known, window_known, step, gauge)
    if lag_known and not gauge:
        # Only the ticks are sought: which of their classes, here; their pace, as they are followed.
        return [
            Found(
                max(zip(search.weigh(pairs), pairs, strict=True), key=lambda pair: pair[0])[1],
                0.0,
                0.05 * step,
                0.0,
            )
        ]
    least = told.lag_ns if lag_known else 0
    found = _narrowed(search, pairs, step, least, lag_known and gauge, gauge and window_known)
    if gauge or search.counting or not search.follow(timeline, occupancy):
        return found
    span = int(search.told.window_ns)
    pairs = [Response(lag, span) for lag in dict.fromkeys(each.lag_ns for each in pairs) if lag >= span // 2]
    followed = _narrowed(search, pairs, step, 0, False, True)
    # From either the best powers may be missed: which is right is seen once ticks are followed.
    return [*followed[:1], *found]


def stated(timeline: Timeline) -> Response:
    """What the rail says of its response; where it does not: no lag, and a window as long as its period."""
    rail = timeline.rail
    window = (rail.window_ns or rail.period_ns or timeline.spacing_ns) if rail.kind == "gauge" else 0
    return Response(rail.lag_ns or 0, window)


def notes(rail: Rail, response: Response) -> tuple[str, ...]:
    """What had to be estimated, in words."""
    made = [] if rail.lag_ns is not None else [f"lag estimated: {response.lag_ns / 1e6:.3g} ms"]
    if rail.kind == "gauge" and rail.window_ns is None:
        made.append(f"averaging window estimated: {response.window_ns / 1e6:.3g} ms")
    return tuple(made)


def _first_pairs(
    told: Response, lag_known: bool, window_known: bool, step: int, gauge: bool
) -> list[Response]:
    if lag_known and gauge:
        lags = np.array([told.lag_ns])
    elif lag_known:
        # A counter shows the last tick: on average half a tick more than the lag it states.
        return [Response(told.lag_ns + int(span) // 2, int(span)) for span in _ticks(step)]
    else:
        # Calls of milliseconds make peaks of milliseconds: a coarser grid would step over the right one.
        fine = np.arange(0, 150_000_000, 2_500_000 if gauge else 5_000_000)
        coarse = np.linspace(0, max(LONGEST_LAG_NS, 2 * step), 61 if gauge else 121)
        lags = np.unique(np.concatenate([fine, coarse.astype(np.int64)]))
    if not gauge:
        return [Response(int(lag), int(span)) for span in _ticks(step) for lag in lags if lag >= span // 2]
    spans = np.array([told.window_ns]) if window_known else _spans(step, told.window_ns)
    finer = lags if lag_known else np.union1d(lags, np.arange(0, 150_000_000, 1_250_000))
    # What looks at a moment tells its lag to a part of a call.
    finest = lags if lag_known else np.union1d(lags, np.arange(0, 3 * step, max(step // 40, 100_000)))
    return [
        Response(int(lag), int(span))
        for span in spans
        for lag in (finest if span < step // 4 else finer if _usual(int(span), told) else lags)
    ]


def _usual(span: int, told: Response) -> bool:
    """Whether a meter's maker may well have chosen this averaging window."""
    return span == told.window_ns or span in USUAL_WINDOWS_NS


def _ticks(step: int) -> Ints:
    """Between which times a counter may tick: when it is asked, or up to as rarely as it is read."""
    some = np.array([0.0, 0.5e6, 1e6, 2e6, 5e6, 0.5 * step, step])
    return np.unique(some[some <= min(step, LONGEST_TICK_NS)].astype(np.int64))


def _spans(step: int, told: int) -> Ints:
    """Averaging windows to try: from a hundredth of the period (a sample of the moment) to two seconds, the
    period itself among them."""
    fractions = step * np.array(
        [0.01, 0.03, 0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50]
    )
    some = np.concatenate([fractions, USUAL_WINDOWS_NS, [told]]).astype(np.int64)
    return np.unique(
        some[(some <= max(LONGEST_WINDOW_NS, 2 * step)) & (some >= min(step // 100, 10_000_000))]
    )


def _narrowed(
    search: _Search, pairs: list[Response], step: int, least: int, lag_fixed: bool, window_fixed: bool
) -> list[Found]:
    """The likeliest of ``pairs``, then finer ones around them."""
    grain = _grain([pair.lag_ns for pair in pairs])
    ratio = 1.3
    scored: dict[Response, float] = {}
    for turn in range(5):
        fresh = [pair for pair in pairs if pair not in scored]
        short = [pair for pair in fresh if not search.counter and _usual(pair.window_ns, search.told)]
        others = [pair for pair in fresh if pair not in set(short)]
        glance = search.glances(others)
        short += [others[at] for at in _shortlist(others, glance)]
        scored.update(zip(short, search.weigh(short, plain=turn == 0), strict=True))
        each_window = _best_of_each_window(scored)
        told = [pair for pair in scored if pair.window_ns == search.told.window_ns]
        scored = dict(sorted(scored.items(), key=lambda each: -each[1])[:LEFT])
        if turn in (0, 2):
            grown = search.refit(each_window[:1] if window_fixed or search.counter or turn else each_window)
            # Under a noise far from the true one all that is told is told wrongly: nothing is left out by it.
            others = short if grown > FAR_OFF else told
            weighed = list(dict.fromkeys([*scored, *each_window, *others]))
            scored = dict(zip(weighed, search.weigh(weighed), strict=True))
        leaders = _diverse(scored, (8, 5, 3, 1, 1)[turn], grain)
        grain, ratio = max(grain / 3, 1.0), ratio**0.5
        pairs = []
        for leader in leaders:
            spans = (
                [leader.window_ns]
                if window_fixed
                else [int(leader.window_ns * f) for f in (1 / ratio, 1.0, ratio)]
            )
            for span in spans:
                first = least + (span // 2 if search.counter else 0)
                pairs += [
                    Response(lag, span)
                    for lag in (
                        [leader.lag_ns]
                        if lag_fixed
                        else [max(first, int(leader.lag_ns + k * grain)) for k in (-2, -1, 0, 1, 2)]
                    )
                ]
        pairs = list(dict.fromkeys(pairs))
        if all(pair in scored for pair in pairs):
            break
    return [
        Found(
            pair,
            scored[pair],
            0.25 * step if not lag_fixed else 0.0,
            0.0 if window_fixed else 0.1 * pair.window_ns,
        )
        for pair in _modes(scored, step, search.counter)
    ]


def _best_of_each_window(scored: dict[Response, float]) -> list[Response]:
    """The likeliest response of each of the likeliest averaging windows, of some length apart."""
    return _diverse(scored, WINDOWS, np.inf)


def _shortlist(pairs: list[Response], glance: Floats) -> list[int]:
    """Which pairs of unusual windows deserve a closer look: the likeliest at a glance, and the likeliest few
    of each window.

    In a fixed loop a peak is narrow, and a glance compares windows badly: usual ones are all looked at.
    """
    order = np.argsort(-glance)
    taken, found = dict.fromkeys(order[:SHORTLIST].tolist()), dict[int, int]()
    for at in order.tolist():
        window = pairs[at].window_ns
        found[window] = found.get(window, 0) + 1
        if found[window] <= EACH_WINDOW:
            taken[at] = None
    return list(taken)


def _modes(scored: dict[Response, float], step: int, counter: bool) -> list[Response]:
    """The likeliest response, then others nearly as likely and too far for a straight line to reach."""
    chosen: list[Response] = []
    highest = max(scored.values())
    for pair in sorted(scored, key=lambda each: -scored[each]):
        if scored[pair] < highest - (BARELY / 2 if counter else BARELY) or len(chosen) == (
            2 if counter else MOST_MODES
        ):
            break
        if all(_apart(pair, other, step, counter) for other in chosen):
            chosen.append(pair)
    return chosen


def _apart(one: Response, other: Response, step: int, counter: bool) -> bool:
    if abs(one.lag_ns - other.lag_ns) > 0.15 * step:
        return True
    if counter:
        return abs(one.window_ns - other.window_ns) > 0.3 * step
    return abs(float(np.log(max(one.window_ns, 1) / max(other.window_ns, 1)))) > 0.25


def _diverse(scored: dict[Response, float], count: int, grain: float) -> list[Response]:
    """The likeliest responses, some way apart: neighbours would only be sought twice."""
    chosen: list[Response] = []
    for pair in sorted(scored, key=lambda each: -scored[each]):
        if all(
            abs(np.log(max(pair.window_ns, 1) / max(other.window_ns, 1))) > 0.2
            or abs(pair.lag_ns - other.lag_ns) > 2.5 * grain
            for other in chosen
        ):
            chosen.append(pair)
        if len(chosen) == count:
            break
    return chosen


def _grain(lags: list[int]) -> float:
    distinct = np.unique(lags)
    return float(np.diff(distinct).min()) if len(distinct) > 1 else 1e5


class _Search:
    """Weighs responses by the readings around the greatest changes."""

    def __init__(
        self,
        timeline: Timeline,
        occupancy: Occupancy,
        gap: Stretches,
        idle: Idle,
        told: Response,
        sites: int,
    ) -> None:
        self.told = told
        self.counter = timeline.rail.kind == "counter"
        self._idle_w = float(np.mean(idle.mean_w))
        # Quiet stretches show it at rest; where there are none it may be anywhere.
        unseen = float(np.sqrt(np.mean(idle.covariance))) if not len(idle.quiet) else 0.0
        self._idle_sigma = max(0.1 * self._idle_w + 1e-6, unseen)
        self._rows = excerpt_of(timeline, occupancy)
        longest = 0 if self.counter else max(LONGEST_WINDOW_NS, 2 * timeline.spacing_ns)
        near = nearby(self._rows, longest + max(LONGEST_LAG_NS, 2 * timeline.spacing_ns))
        columns = _busiest(occupancy, sites)
        length, gap_s = (gap.end_ns - gap.start_ns) / 1e9, float((gap.end_ns - gap.start_ns).sum()) / 1e9
        self._work = gap_s > GAP * float((occupancy.end_ns - occupancy.start_ns).sum()) / 1e9
        gap = gap if self._work else gap.where(slice(0, 0))
        self._table = Elapsed(around(occupancy, near.start_ns, near.end_ns), columns, gap, near)
        self._call_s = _group_calls(occupancy, columns)
        if self._work:
            self._call_s = np.append(self._call_s, float((length**2).sum()) / gap_s)
        self._noise = Noise(0.05**2, 0.1 * timeline.spacing_ns / 1e9 if self.counter else 0.005)
        self._usual = self._noise
        self._smear_ns = -1
        # A gauge's step is one of watts: what it is over a second.
        rows = windows(timeline, Response(0, 0 if self.counter else 1_000_000_000))
        self.counting, self._quantum = counts(rows), rows.quantum_j
        if not self.counter:
            self._forget_glitches(timeline.spacing_ns)

    def _forget_glitches(self, step: int) -> None:
        """Leaves out what no response explains: were such samples errors like any others, those would be
        large."""
        spans = dict.fromkeys((self.told.window_ns, step, max(step // 4, 1), 2 * step))
        tried = [
            Response(self.told.lag_ns + lag, span) for span in spans for lag in (0, step // 2, step, 2 * step)
        ]
        known = self._rows.known.copy()
        wild = glitches(self._designs(tried))
        known[np.flatnonzero(known)[wild]] = False
        self._rows = replace(self._rows, known=known)

    def follow(self, timeline: Timeline, occupancy: Occupancy) -> bool:
        """Takes a counter's readings for those of the moments that its ticks tell, if they do."""
        busy = Stretches(*busy_stretches(occupancy))
        found = ages.told(timeline, busy, self._idle_w, LONGEST_LAG_NS, self._rows.at)
        if found is None:
            return False
        period = int(found.ticks.period_ns)
        off = (found.mean_ns[self._rows.at] - period / 2).astype(np.int64)
        self._rows = replace(self._rows, t_ns=self._rows.t_ns - off)
        # A stretch is the square root of twelve as long as its standard deviation.
        self._smear_ns = int(np.sqrt(12) * np.median(found.sigma_ns[self._rows.at]))
        self.told, self._noise = Response(self.told.lag_ns, period), self._usual
        return True

    def glances(self, pairs: list[Response]) -> Floats:
        """A quick score (n,) for each pair."""
        return np.array([_likelihood(made, self.counter) for made in self._designs(pairs)])

    def weigh(self, pairs: list[Response], plain: bool = False) -> list[float]:
        """The evidence for each pair, with what is believed of windows beforehand; ``plain``: at a first
        glance, when noise is not known, and what errs wildly is not told from what is wrong."""
        made = []
        for pair, design_ in zip(pairs, self._designs(pairs), strict=True):
            prior, at = self._prior(design_)
            usual = pair.window_ns == self.told.window_ns and not self.counter
            bonus = USUAL_WINDOW if usual else 0.0
            if not usual and not self.counter:
                near = np.abs(np.array(USUAL_WINDOWS_NS) / pair.window_ns - 1).min() < 0.02
                bonus = 0.5 * USUAL_WINDOW if near else 0.0
            likely = evidence if plain or self.counter else evidence_with_tails
            made.append(likely(design_, prior, at, self._noise) + bonus - _jacobian(pair, design_))
        return made

    def refit(self, pairs: list[Response]) -> float:
        """Takes the noise from what a pair leaves over: of the pair that is the likeliest with its own.
        Returns how many times as large as before its jitter is.

        Calls that differ much from each other make short windows likely while they are taken to be alike.
        """
        usual, found, before = self._usual, [], self._noise
        for pair, made in zip(pairs, self._designs(pairs), strict=True):
            prior, at = self._prior(made)
            self._noise = fit_noise(made, prior, at, no_extra(len(made)), usual)
            found.append((self.weigh([pair])[0] - belief(self._noise, usual), self._noise))
        self._noise = max(found, key=lambda each: each[0])[1]
        return self._noise.jitter / before.jitter

    def _prior(self, made: Design) -> tuple[Prior, Floats]:
        ran = max(float(made.seconds.sum()), 1e-9)
        spent = float(made.windows.energy_j.sum()) - self._idle_w * float(made.windows.length_s.sum())
        usual = max(spent / ran, 0.02 * self._idle_w, 1e-6)
        count = made.seconds.shape[1]
        variances = np.append(
            np.full(count, 0.5 * usual**2), np.full(made.idle.shape[1], self._idle_sigma**2)
        )
        mean = np.append(np.full(count, usual), np.full(made.idle.shape[1], self._idle_w))
        if self._work:
            mean[count - 1] = 0.5 * usual
        return Prior(mean, np.diag(1 / variances)), np.full(count, usual)

    def _designs(self, pairs: list[Response]) -> Iterator[Design]:
        rows = self._rows
        stamps = rows.t_ns
        ends = np.array([stamps[0], stamps[-1]])
        for pair in pairs:
            upto = stamps - pair.lag_ns
            if self.counter:
                gathered = [self._table.at(upto - each) for each in self._edges(pair)]
                start, end = upto[:-1], upto[1:]
                seconds, joules = np.diff(sum(gathered) / len(gathered), axis=0), rows.step_j
            else:
                start, end = upto[1:] - pair.window_ns, upto[1:]
                seconds = self._table.at(end) - self._table.at(start)
                joules = rows.step_j / np.diff(stamps) * pair.window_ns
            linked = np.append(False, rows.known[:-1]) & self.counter
            quantum_j = self._quantum * (1.0 if self.counter else pair.window_ns / 1e9)
            part = Windows(start, end, joules, linked, quantum_j).take(rows.known)
            seconds = seconds[rows.known]
            spread = seconds * np.minimum(seconds, self._call_s)
            idle = hats(ends, (part.start_ns + part.end_ns) / 2) * part.length_s[:, None]
            yield Design(part, sparse.csr_matrix(seconds), sparse.csr_matrix(spread), idle, self._idle_w)

    def _edges(self, pair: Response) -> list[int]:
        """How far before an edge to look: a gauge's window, or where a counter's tick may lie."""
        if not self.counter:
            return [0, pair.window_ns]
        return smeared_ns(pair.window_ns if self._smear_ns < 0 else self._smear_ns, 4)


def _jacobian(pair: Response, made: Design) -> float:
    """A gauge shows watts whatever its window: densities of joules are put back into those of watts."""
    return (
        0.0
        if made.windows.linked.any() or pair.window_ns == 0
        else -len(made) * float(np.log(pair.window_ns / 1e9))
    )


def _busiest(occupancy: Occupancy, most: int) -> Ints:
    """Which column each site goes to: the busiest ``most`` have one each, what is left shares one more."""
    length = np.zeros(len(occupancy.sites))
    for part in parts(len(occupancy)):
        mine = occupancy.end_ns[part] - occupancy.start_ns[part]
        length += np.bincount(occupancy.column[part], weights=mine, minlength=len(length))
    columns = np.full(len(occupancy.sites), most)
    columns[np.argsort(-length)[:most]] = np.arange(min(most, len(occupancy.sites)))
    return columns


def _group_calls(occupancy: Occupancy, columns: Ints) -> Floats:
    count = int(columns.max()) + 1
    once, twice = np.zeros(count), np.zeros(count)
    for part in parts(len(occupancy)):
        length = (occupancy.end_ns[part] - occupancy.start_ns[part]) / 1e9
        at = columns[occupancy.column[part]]
        once += np.bincount(at, weights=length, minlength=count)
        twice += np.bincount(at, weights=length * length, minlength=count)
    return np.asarray(np.divide(twice, once, out=np.full(count, 1e-3), where=once > 0))


def _likelihood(made: Design, counter: bool) -> float:
    """Log likelihood at a glance: powers pulled towards a common one, errors of one unknown size, in chains
    if a counter's."""
    seconds = made.seconds.toarray()
    scale = np.ones(len(made)) if counter else 1 / made.windows.length_s
    columns = np.column_stack([seconds.sum(axis=1), seconds, made.idle]) * scale[:, None]
    target = made.windows.energy_j * scale
    if counter:
        columns, target = _unchained(columns), _unchained(target[:, None])[:, 0]
    total = columns.T @ columns
    ridge = np.full(columns.shape[1], 1e-9 * max(float(np.diag(total).max()), 1e-12))
    ridge[1 : 1 + seconds.shape[1]] += 0.02 * max(
        float(np.diag(total)[1 : 1 + seconds.shape[1]].max(initial=0.0)), 1e-12
    )
    pull = columns.T @ target
    factor = linalg.cho_factor(total + np.diag(ridge))
    left = float(target @ target - pull @ linalg.cho_solve(factor, pull))
    return -0.5 * len(target) * float(np.log(max(left, 1e-30)))


def _unchained(columns: Floats, theta: float = 0.7) -> Floats:
    """Each row plus θ times what the rows before it left: takes a moving average of −θ out of the errors."""
    # The recursion is a lower bidiagonal system of ones and −θ.
    chain = np.array([[1.0], [-theta]]).repeat(len(columns), axis=1)
    return np.asarray(linalg.lapack.dtbtrs(chain, columns, uplo="L", diag="U")[0])
