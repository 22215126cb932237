"""``with Meter() as meter:`` — the energy of a block, its spans and its calls."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from joulemeter.errors import UsageError
from joulemeter.reading import rank_of
from joulemeter.sampler import Sampler

if TYPE_CHECKING:
    from joulemeter.ledger import Energy, Ledger
    from joulemeter.reading import Source
    from joulemeter.recorder import Recorder
    from joulemeter.run import Run

P = ParamSpec("P")
R = TypeVar("R")

_active: list[Meter] = []


class Meter:
    """Meters what runs inside its ``with`` block.

    ``sources``: sources or their specs (``"rapl"``, ``"nvml"``, ``"simulated:…"``); none given: every meter
    that answers here, else the estimate. ``folder``: keeps the run folder there (``force`` replaces one;
    under torchrun it is ``folder/rank-K``);
    without it the records live in a temporary folder until the meter is collected. ``period_s`` reads
    every source that often instead of at its own period.

    Entering starts the sampler, a process of its own, and waits for its first reading (some 60 ms);
    leaving stops it. Afterwards ``energy_j`` is the gross energy of the block, idle included, summed over the
    outermost rails; ``energy`` the same with its interval; ``ledger`` says where it went; ``run`` is the raw
    record. Each is NaN, never zero, where the meters did not see the block.
    """

    def __init__(
        self,
        sources: Sequence[Source | str] | None = None,
        *,
        folder: Path | str | None = None,
        force: bool = False,
        period_s: float | None = None,
    ) -> None:
        self._specs = None if sources is None else [s if isinstance(s, str) else s.spec for s in sources]
        self._folder = None if folder is None else Path(folder)
        self._force = force
        self._period_ns = None if period_s is None else round(period_s * 1e9)
        self._recorder: Recorder | None = None
        self._run: Run | None = None
        self._ledger: Ledger | None = None
        self._window = (0, 0)

    # ── the block ────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> Meter:
        from joulemeter import run, sources
        from joulemeter.recorder import Recorder

        if self._recorder is not None:
            raise UsageError("this Meter has been used already", "a new Meter() for each block")
        self._made_for_us = self._folder is None
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="joulemeter-")) / "run"
        elif rank_of(os.environ) is not None:
            from joulemeter import ranks

            self._folder = ranks.place(self._folder, self._force)
        self._folder = run.create(self._folder, sys.argv, force=self._force)
        specs = sources.default_specs() if self._specs is None else self._specs
        try:
            self._sampler = Sampler(self._folder / run.RAW, specs, self._period_ns)
        except BaseException:
            self._discard()
            raise
        self._recorder = Recorder(self._folder / run.RAW)
        _active.append(self)
        self._block = self._recorder.span("meter")
        self._block.__enter__()
        self._window = (time.monotonic_ns(), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        from joulemeter import run

        assert self._recorder is not None
        assert self._folder is not None
        self._window = (self._window[0], time.monotonic_ns())
        self._block.__exit__(kind, error, traceback)
        if self in _active:
            _active.remove(self)
        account, notes = self._sampler.stop()
        self._recorder.close()
        facts = {"end": {"monotonic_ns": self._window[1]}, "sampler": account, "notes": notes}
        self._run = run.finish(self._folder, facts)
        if self._made_for_us:
            self._discard()

    def _discard(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder.parent if self._made_for_us else self._folder, ignore_errors=True)

    # ── inside the block ─────────────────────────────────────────────────────────────────────────────

    @property
    def recorder(self) -> Recorder:
        """What records the block's spans."""
        if self._recorder is None:
            raise UsageError("this Meter has not been entered", "with Meter() as meter: …")
        return self._recorder

    def span(self, name: str) -> AbstractContextManager[Any]:
        """A named stretch of the program: ``with meter.span("eval"):``. Spans nest, and may be open at
        once in several threads and asyncio tasks. Costs about a microsecond."""
        return self.recorder.span(name)

    def energy_between(self, start_ns: int, end_ns: int) -> Energy:
        """The gross energy between two moments of ``time.monotonic_ns``, from the readings so far;
        NaN where they do not reach. Reads the raw files: milliseconds, not for inner loops."""
        from joulemeter import rawfiles, run
        from joulemeter.window import energy_between

        if self._run is not None:
            return energy_between(self._run.timelines(), start_ns, end_ns)
        assert self._folder is not None
        return energy_between(rawfiles.timelines(self._folder / run.RAW), start_ns, end_ns)

    @property
    def stretch_ns(self) -> tuple[int, int]:
        """From when to when the block ran; while it runs, to now (``time.monotonic_ns``)."""
        start_ns, end_ns = self._window
        return start_ns, end_ns or time.monotonic_ns()

    @property
    def origin(self) -> str:
        """Where its energies come from: ``measured``, or ``estimated`` where nothing answers; or several."""
        from joulemeter import rawfiles, run

        if self._run is not None:
            rails = self._run.rails
        else:
            rails = rawfiles.read_rails(self._folder / run.RAW) if self._folder is not None else ()
        return ", ".join(sorted({rail.origin for rail in rails})) or "nothing metered"

    # ── after it ─────────────────────────────────────────────────────────────────────────────────────

    @property
    def run(self) -> Run:
        """The raw record of the block."""
        if self._run is None:
            raise UsageError("the block has not ended yet", "read this after the `with` block")
        return self._run

    @property
    def ledger(self) -> Ledger:
        """Where the joules went, worked out at the first asking."""
        if self._ledger is None:
            self._ledger = self.run.ledger()
        return self._ledger

    @property
    def energy(self) -> Energy:
        """The gross energy of the block with its 95 % interval, summed over the outermost rails."""
        return self.energy_between(*self._window) if self._run is not None else _unended()

    @property
    def energy_j(self) -> float:
        """The gross energy of the block in joules; NaN where the meters did not see it."""
        return self.energy.energy_j

    @property
    def time_s(self) -> float:
        """How long the block ran."""
        return (self._window[1] - self._window[0]) / 1e9 if self._run is not None else float("nan")


def _unended() -> Energy:
    raise UsageError("the block has not ended yet", "read this after the `with` block")


def metered(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: each call is a span of every active Meter, named after the function.

    Outside any Meter a call opens one of its own, and prints what it used on stderr in one line.
    """
    name = f"{function.__module__}.{function.__qualname__}"

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        """The function as a span of the running meter, or metered alone."""
        if not _active:
            return _alone(name, function, args, kwargs)
        with _active[-1].span(name):
            return function(*args, **kwargs)

    return wrapper


def _alone(name: str, function: Callable[..., R], args: Any, kwargs: Any) -> R:
    meter = Meter()
    try:
        with meter, meter.span(name):
            return function(*args, **kwargs)
    finally:
        sys.stderr.write(f"{name}: {_in_words(meter)}\n")


def _in_words(meter: Meter) -> str:
    from joulemeter.units import joules, seconds

    energy, origins = meter.energy, sorted({rail.origin for rail in meter.run.rails})
    return (
        f"{joules(energy.energy_j)} ({joules(energy.low_j)} to {joules(energy.high_j)}; "
        f"{', '.join(origins)}) in {seconds(meter.time_s)}"
    )
