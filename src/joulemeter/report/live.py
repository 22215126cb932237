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

from joulemeter.ledger import Ledger
from joulemeter.live import RailState
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
            state.rail.origin + unseen,
        )
    lines = [Text(note, style="dim") for note in notes]
    return Group(Text(f"Energy over {seconds(elapsed_s)}; Ctrl-C ends", style="bold"), table, *lines)


def sites(ledger: Ledger, most: int = 8) -> RenderableType:
    """The sites that took most so far, on the first rail."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Top sites so far", title_justify="left")
    for name in ("site", "calls", "energy above idle"):
        table.add_column(name)
    rows = [(site, site.rails[0]) for site in ledger.sites if site.rails and site.rails[0].resolved]
    rows.sort(key=lambda row: -row[1].exclusive.energy_j)
    for site, entry in rows[:most]:
        table.add_row(site.site.name, f"{site.calls:,}", joules(entry.exclusive.energy_j))
    if not rows:
        table.add_row("none can be told yet", "", "")
    return table
