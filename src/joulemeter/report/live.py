"""The live view of a machine's rails, for a terminal: power, its recent course, energy so far, top sites."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from joulemeter.ledger import Energy, Ledger
from joulemeter.live import RailState
from joulemeter.report import text
from joulemeter.units import joules, seconds, watts

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40


@dataclass
class Course:
    """The powers of each rail over the last readings."""

    watts: dict[tuple[str, int], deque[float]] = field(default_factory=dict)

    def take(self, states: Sequence[RailState]) -> None:
        """Adds the power of every rail now."""
        for state in states:
            key = (state.rail.source, state.rail.id)
            self.watts.setdefault(key, deque(maxlen=_WIDTH)).append(state.power_w)

    def line(self, state: RailState) -> str:
        """The rail's recent powers as bars on a scale from zero to the highest; a gap is a blank."""
        values = self.watts.get((state.rail.source, state.rail.id), deque())
        top = max((value for value in values if not math.isnan(value)), default=0.0)
        return "".join(_bar(value, top) for value in values)


def _bar(value: float, top: float) -> str:
    if math.isnan(value) or top <= 0:
        return " "
    return _BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)))]


def view(
    states: Sequence[RailState], course: Course, elapsed_s: float, notes: Sequence[str] = ()
) -> RenderableType:
    """A table of the rails, and the notes below it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (
        ("rail", "left"),
        ("power", "right"),
        (f"last {_WIDTH} readings", "left"),
        ("energy", "right"),
        ("95 % interval", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    table.add_column("origin")
    for state in states:
        indent = "" if state.rail.inside is None else "  "
        unseen = f", {seconds(state.unseen_s)} not seen" if state.unseen_s else ""
        table.add_row(
            indent + state.rail.name,
            watts(state.power_w),
            course.line(state),
            joules(state.energy_j),
            ends(state.energy),
            state.rail.origin + unseen,
        )
    lines = [Text(note, style="dim") for note in notes]
    return Group(Text(f"Energy over {seconds(elapsed_s)}; Ctrl-C ends", style="bold"), table, *lines)


def ends(energy: Energy) -> str:
    """The interval of an energy, as it is printed."""
    return f"{joules(energy.low_j)} – {joules(energy.high_j)}"


def sites(ledger: Ledger | None, fault: str = "", most: int = 8) -> RenderableType:
    """The sites that took most so far, a table a rail; None: the first ledger is not done yet."""
    if ledger is None:
        return Text(fault or "Top sites: working them out …", style="dim")
    tables = [text.rail_table(rail, ledger, most) for rail in ledger.rails]
    return Group("", *tables, *([Text(fault, style="dim")] if fault else []))
