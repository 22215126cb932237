"""The phases of a training (epoch, step, validation) as spans, and the energy of each as it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joulemeter.ledger import UNKNOWN, Energy

if TYPE_CHECKING:
    from joulemeter.meter import Meter

SETTLE_S = 2.0
"""The longest that the end of a phase waits for the meter's next reading."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase that has ended. ``energy`` is gross, idle included; UNKNOWN where no meter saw it."""

    name: str
    start_ns: int
    end_ns: int
    energy: Energy
    origin: str

    def metrics(self, parts: int = 1) -> dict[str, float]:
        """``energy_j/NAME`` with the ends of its 95 % interval, of one of ``parts``; empty where unknown."""
        if math.isnan(self.energy.energy_j) or parts < 1:
            return {}
        return {
            f"energy_j/{self.name}": self.energy.energy_j / parts,
            f"energy_low_j/{self.name}": self.energy.low_j / parts,
            f"energy_high_j/{self.name}": self.energy.high_j / parts,
        }

    def without(self, inner: Sequence[Phase], name: str) -> Phase:
        """This phase less those that ran within it, under another name; ends of intervals add.

        UNKNOWN where one of them was not seen: it took some of the energy, and nobody knows how much.
        """
        rest_j = self.energy.energy_j - math.fsum(each.energy.energy_j for each in inner)
        low_j = self.energy.low_j - math.fsum(each.energy.high_j for each in inner)
        high_j = self.energy.high_j - math.fsum(each.energy.low_j for each in inner)
        rest = UNKNOWN if math.isnan(rest_j) else Energy(rest_j, max(0.0, low_j), high_j)
        return Phase(name, self.start_ns, self.end_ns, rest, self.origin)


class Phases:
    """Opens and closes named phases on the calling thread; they nest.

    With a Meter, each is a span of its own record, and its energy is known when it ends. Without one, it is
    a span of whatever is being recorded (``joulemeter run``, a Meter around it), and has no energy.
    """

    def __init__(
        self,
        meter: Meter | None = None,
        settle_s: float = SETTLE_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._meter = meter
        self._settle_s = settle_s
        self._sleep = sleep
        self._open: dict[str, tuple[int, ExitStack]] = {}

    @property
    def origin(self) -> str:
        """Where the energies come from, ``estimated`` say; ``unmetered`` without a Meter."""
        return "unmetered" if self._meter is None else self._meter.origin

    @property
    def metered(self) -> bool:
        """Whether energies will be known: whether there is a Meter."""
        return self._meter is not None

    def begin(self, name: str) -> None:
        """Opens a phase; one of that name that is still open (an exception went by) is closed."""
        self._close(name)
        stack = ExitStack()
        for span in self._spans(name):
            stack.enter_context(span)
        self._open[name] = (time.monotonic_ns(), stack)

    def end(self, name: str, wait: bool = True) -> Phase | None:
        """Closes a phase and says what it used; None if it was not open.

        With ``wait``, it waits for the meter to have seen the end, ``settle_s`` at most: milliseconds to a
        tenth of a second, after the phase's span.
        """
        found = self._close(name)
        if found is None:
            return None
        start_ns, end_ns = found
        return Phase(name, start_ns, end_ns, self._energy(start_ns, end_ns, wait), self.origin)

    def close(self, name: str) -> None:
        """Closes a phase without asking what it used; costs about a microsecond."""
        self._close(name)

    def abandon(self) -> None:
        """Closes everything that is open, the innermost first."""
        for name in reversed(list(self._open)):
            self._close(name)

    def _close(self, name: str) -> tuple[int, int] | None:
        found = self._open.pop(name, None)
        if found is None:
            return None
        start_ns, stack = found
        end_ns = time.monotonic_ns()
        stack.close()
        return start_ns, end_ns

    def _spans(self, name: str) -> list[AbstractContextManager[Any]]:
        if self._meter is not None:
            return [self._meter.span(name)]
        from joulemeter import recorder

        return [each.span(name) for each in recorder.living()]

    def _energy(self, start_ns: int, end_ns: int, wait: bool) -> Energy:
        if self._meter is None:
            return UNKNOWN
        return settled(self._meter, start_ns, end_ns, self._settle_s if wait else 0.0, self._sleep)


def so_far(meter: Meter, name: str = "run") -> Phase:
    """The block of a Meter as a phase: up to now while it runs, else all of it. May wait SETTLE_S."""
    start_ns, end_ns = meter.stretch_ns
    energy = settled(meter, start_ns, end_ns)
    return Phase(name, start_ns, end_ns, energy, meter.origin)


def settled(
    meter: Meter,
    start_ns: int,
    end_ns: int,
    settle_s: float = SETTLE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Energy:
    """The energy of a stretch that has just ended, when the meter has seen its end or time is up."""
    energy = meter.energy_between(start_ns, end_ns)
    until = time.monotonic() + settle_s
    while math.isnan(energy.energy_j) and time.monotonic() < until:
        sleep(min(settle_s / 25, 0.01))
        energy = meter.energy_between(start_ns, end_ns)
    return energy
