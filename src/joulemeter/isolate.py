"""One call, repeated until its interval is narrow enough."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from joulemeter import isolation
from joulemeter.conditions import Conditions, look, remarks
from joulemeter.isolation import FEWEST_ROUNDS, Interval, PerCall, Window
from joulemeter.ledger import Energy, number
from joulemeter.reading import Rail, outermost
from joulemeter.timeline import Timeline

Call = Callable[[], Any]


class Stage(Protocol):
    """Where calls are isolated: a clock, a machine that rests and works, and meters; tests bring theirs."""

    def now_ns(self) -> int:
        """The time."""

    def rest(self, seconds: float) -> None:
        """Does nothing for so long."""

    def work(self, call: Call, times: int) -> tuple[int, int]:
        """Makes the call so often; returns when the first began and the last had ended (its device too)."""

    def rails(self) -> Sequence[Rail]:
        """The rails that are read."""

    def timelines(self) -> list[Timeline]:
        """What has been read so far."""

    def look(self) -> Conditions:
        """The conditions now."""


@dataclass(frozen=True, slots=True)
class Isolated:
    """One call's energy and time. ``energy`` is net of the rest around it, ``gross`` is not; both per call,
    with 95 % intervals that hold the scatter and the meters' own error."""

    name: str
    origin: str
    energy: Energy
    gross: Energy
    time: Interval
    rest_w: Interval
    repeatability: float
    """Half the width of the scatter's 95 % interval, as a fraction: what repeating more would narrow."""
    target: float
    reached: bool
    """Whether the repeatability asked for was reached before the time limit."""
    calls: int
    rounds: int
    machine_s: float
    notes: tuple[str, ...] = ()

    @property
    def time_s(self) -> float:
        """Seconds of one call."""
        return self.time.value

    @property
    def power_w(self) -> float:
        """Mean power above rest while the call runs."""
        return self.energy.energy_j / self.time_s if self.time_s > 0 else math.nan

    @property
    def resolved(self) -> bool:
        """Whether the call's energy can be told from nothing."""
        return self.energy.low_j > 0

    def to_json(self) -> dict[str, Any]:
        """One plain object; null where not known."""
        return {
            "name": self.name,
            "origin": self.origin,
            "energy": self.energy.to_json(),
            "gross": self.gross.to_json(),
            "time_s": number(self.time.value),
            "time_low_s": number(self.time.low),
            "time_high_s": number(self.time.high),
            "power_W": number(self.power_w),
            "rest_W": number(self.rest_w.value),
            "repeatability": number(self.repeatability),
            "target": self.target,
            "reached": self.reached,
            "resolved": self.resolved,
            "calls": self.calls,
            "rounds": self.rounds,
            "machine_s": self.machine_s,
            "notes": list(self.notes),
        }


def isolate(
    function: Callable[..., Any],
    *args: Any,
    ci: float = 0.05,
    limit_s: float = 60.0,
    sources: Sequence[Any] | None = None,
    name: str | None = None,
    **kwargs: Any,
) -> Isolated:
    """The energy of ``function(*args, **kwargs)``, alone: warmed up, repeated in batches with rests between,
    until the scatter's interval is narrower than ± ``ci`` or ``limit_s`` seconds have passed.

    The function is called many times with the same arguments, which are not copied. Where a CUDA device is
    in use, each batch ends when the device has done its work. The origin is the meter's: where none answers,
    the figures are ``estimated`` and their interval says so.
    """
    label = name or str(getattr(function, "__qualname__", repr(function)))
    with machine(sources) as stage:
        return isolate_all({label: lambda: function(*args, **kwargs)}, stage, ci=ci, limit_s=limit_s)[label]


def isolate_all(
    calls: Mapping[str, Call], stage: Stage, *, ci: float = 0.05, limit_s: float = 60.0, seed: int = 0
) -> dict[str, Isolated]:
    """Several calls side by side on one stage, their batches in a random order within every round.

    ``limit_s`` holds for each call; all are repeated until the last has reached ``ci``.
    """
    before, start_ns = stage.look(), stage.now_ns()
    plan = _Plan(stage.rails(), limit_s)
    tracks = {
        name: _Track(name, call, *_warm_up(stage, call, plan, limit_s / 5)) for name, call in calls.items()
    }
    shuffle = random.Random(seed).shuffle
    _, rest = _rest(stage, plan)
    check_at = FEWEST_ROUNDS
    while True:
        order = list(tracks.values())
        shuffle(order)
        for track in order:
            rest = track.round(stage, plan, rest)
        done_s = (stage.now_ns() - start_ns) / 1e9
        out_of_time = track.rounds >= 3 and done_s * (1 + 1 / track.rounds) > limit_s * len(tracks)
        if track.rounds >= check_at or out_of_time:
            # Looking after every round would stop at the first lucky one: look ever more seldom.
            check_at = math.ceil(check_at * 1.4)
            found = _figures(stage, plan, tracks)
            if out_of_time or all(_narrow(each, ci) for each in found.values()):
                break
    notes = tuple(remarks(before, stage.look(), os.cpu_count() or 1))
    return {
        name: _result(tracks[name], found[name], stage, ci, done_s / len(tracks), notes) for name in tracks
    }


def _narrow(found: PerCall, ci: float) -> bool:
    # Nine tenths, because the interval that stops the repetition is one of the narrower ones by selection.
    return found.rounds >= FEWEST_ROUNDS and found.net_j.relative <= 0.9 * ci


# ── the parts of a round ─────────────────────────────────────────────────────────────────────────────


class _Plan:
    """How long batches, rests and pauses must be for the meters to see them."""

    def __init__(self, rails: Sequence[Rail], limit_s: float) -> None:
        slowest = max((max(rail.period_ns, rail.window_ns or 0) for rail in rails), default=10_000_000) / 1e9
        lag = max((rail.lag_ns or 0 for rail in rails), default=0) / 1e9
        # An edge is known to about a period: fifty of them keep it near one percent.
        self.batch_s = max(0.05, 50 * slowest)
        # What a meter still shows of the batch around its edges must not be taken for rest.
        self.pause_before_s, self.pause_after_s = 2 * slowest, lag + 3 * slowest
        self.guards_ns = round(1.5e9 * slowest), round(1e9 * (self.pause_after_s - slowest / 2))
        # A time limit too short for that: shorter batches, whose interval is honest and wide, not fewer.
        fits_s = (0.7 * limit_s / FEWEST_ROUNDS - self.pause_before_s - self.pause_after_s) / 2.5
        self.batch_s = max(self.batch_s / 10, min(self.batch_s, fits_s))
        self.rest_s = 0.75 * self.batch_s


@dataclass
class _Track:
    """One call and its rounds so far."""

    name: str
    call: Call
    times: int
    steady: bool
    batches: list[Window] = field(default_factory=list)
    before: list[Window] = field(default_factory=list)
    after: list[Window] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        return len(self.batches)

    def round(self, stage: Stage, plan: _Plan, before: Window) -> Window:
        """One batch after the rest ``before``; returns the rest before the next."""
        self.before.append(before)
        start_ns, end_ns = stage.work(self.call, self.times)
        self.batches.append(Window(start_ns, end_ns, self.times))
        after, before_next = _rest(stage, plan)
        self.after.append(after)
        return before_next


def _rest(stage: Stage, plan: _Plan) -> tuple[Window, Window]:
    """A rest in two halves: one for the batch that was, one for the batch to come."""
    stage.rest(plan.pause_after_s)
    start_ns = stage.now_ns()
    stage.rest(plan.rest_s)
    middle_ns = stage.now_ns()
    stage.rest(plan.rest_s)
    end_ns = stage.now_ns()
    stage.rest(plan.pause_before_s)
    return Window(start_ns, middle_ns, 0), Window(middle_ns, end_ns, 0)


def _warm_up(stage: Stage, call: Call, plan: _Plan, limit_s: float) -> tuple[int, bool]:
    """Calls until its time is steady; returns how many make a batch, and whether it became steady."""
    start_ns = stage.now_ns()
    seconds: list[float] = []
    times = 1
    while True:
        began, ended = stage.work(call, times)
        took_s = max((ended - began) / 1e9, 1e-9)
        if took_s < plan.batch_s / 10:
            times *= max(2, min(10, int(plan.batch_s / 10 / took_s)))
            continue
        seconds.append(took_s / times)
        settled = isolation.steady(seconds)
        if settled or (stage.now_ns() - start_ns) / 1e9 > limit_s:
            return max(1, math.ceil(plan.batch_s / seconds[-1])), settled


# ── results ──────────────────────────────────────────────────────────────────────────────────────────


def _figures(stage: Stage, plan: _Plan, tracks: Mapping[str, _Track]) -> dict[str, PerCall]:
    stage.rest(plan.pause_after_s + plan.batch_s / 10)  # so that the last rest has been read
    lines = stage.timelines()
    return {
        name: isolation.per_call(lines, t.batches, t.before, t.after, plan.guards_ns)
        for name, t in tracks.items()
    }


def _result(
    track: _Track, found: PerCall, stage: Stage, ci: float, machine_s: float, notes: tuple[str, ...]
) -> Isolated:
    outer = outermost(tuple(stage.rails()))
    error = max((rail.relative_error for rail in outer), default=0.0)
    return Isolated(
        name=track.name,
        origin=", ".join(sorted({rail.origin for rail in outer})) or "nothing metered",
        energy=isolation.energy(found.net_j, error),
        gross=isolation.energy(found.gross_j, error),
        time=found.time_s,
        rest_w=found.rest_w,
        repeatability=found.net_j.relative,
        target=ci,
        reached=_narrow(found, ci),
        calls=sum(window.calls for window in track.batches),
        rounds=found.rounds,
        machine_s=machine_s,
        notes=(*notes, *_remarks(track, found)),
    )


def _remarks(track: _Track, found: PerCall) -> list[str]:
    notes = [] if track.steady else ["the time of the call did not settle during warm-up"]
    if found.rounds < track.rounds:
        notes.append(f"{track.rounds - found.rounds} of {track.rounds} rounds fell into gaps of the meter")
    span_s = (track.batches[-1].end_ns - track.batches[0].start_ns) / 1e9
    power = found.gross_j.value / found.time_s.value
    if found.trend_p < 0.01 and abs(found.trend_w_per_s) * span_s > 0.02 * power:
        notes.append(
            f"the power while working drifted by {found.trend_w_per_s * span_s:+.2g} W over the rounds"
        )
    return notes


# ── the real machine ─────────────────────────────────────────────────────────────────────────────────


class machine:
    """This machine as a stage: its clock, and a sampler on ``sources`` (none given: as a Meter chooses)."""

    def __init__(self, sources: Sequence[Any] | None = None, period_s: float | None = None) -> None:
        self._sources = sources
        self._period_ns = None if period_s is None else round(period_s * 1e9)

    def __enter__(self) -> machine:
        from joulemeter import sources
        from joulemeter.sampler import Sampler

        specs = sources.default_specs() if self._sources is None else self._sources
        self._raw = Path(tempfile.mkdtemp(prefix="joulemeter-isolate-"))
        try:
            self._sampler = Sampler(
                self._raw, [s if isinstance(s, str) else s.spec for s in specs], self._period_ns
            )
        except BaseException:
            shutil.rmtree(self._raw)
            raise
        self._rails = tuple(
            Rail.from_json(each) for each in json.loads((self._raw / "rails.json").read_text())
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._sampler.stop()
        shutil.rmtree(self._raw)

    def now_ns(self) -> int:
        """``time.monotonic_ns``, the clock of all readings."""
        return time.monotonic_ns()

    def rest(self, seconds: float) -> None:
        """Sleeps."""
        time.sleep(seconds)

    def work(self, call: Call, times: int) -> tuple[int, int]:
        """Calls ``times`` times; the end is when a CUDA device in use has finished too."""
        start_ns = time.monotonic_ns()
        for _ in range(times):
            call()
        _synchronize()
        return start_ns, time.monotonic_ns()

    def rails(self) -> Sequence[Rail]:
        """The rails of the sampler."""
        return self._rails

    def timelines(self) -> list[Timeline]:
        """What the sampler has written so far."""
        from joulemeter import rawfiles

        return rawfiles.timelines(self._raw)

    def look(self) -> Conditions:
        """The conditions of this machine."""
        return look()


def _synchronize() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
