"""Folded stacks for flamegraph.pl and its kin: a line a chain of calls, its own nanojoules at the end.

The outermost rails are the roots of the stacks, with their origin and interval in the name, so that widths
add up to what was measured. What is not known, and what a correction made negative, has no width: both are
told in the root's name as joules left out.
"""

from __future__ import annotations

import math

from joulemeter import calltree
from joulemeter.ledger import Ledger, RailLedger
from joulemeter.reading import outermost
from joulemeter.run import Run
from joulemeter.units import joules

EXTENSION = "folded"
BINARY = False


def render(run: Run, ledger: Ledger) -> str:
    """The stacks of every outermost rail; see `flamegraph.pl --countname nJ`."""
    tree = calltree.of(run.spans)
    names = {site.id: _clean(site.name) for site in run.sites}
    outer = {rail.id for rail in outermost(tuple(each.rail for each in ledger.rails))}
    lines = [
        line for rail in ledger.rails if rail.rail.id in outer for line in _stacks(rail, tree, names, ledger)
    ]
    return "".join(line + "\n" for line in lines)


def title(rail: RailLedger) -> str:
    """A rail's name with its origin, energy and interval."""
    energy = rail.energy
    bounds = f"{joules(energy.low_j)} to {joules(energy.high_j)}"
    return f"{rail.rail.name}, {rail.rail.origin}: {joules(energy.energy_j)} ({bounds})"


def parts(rail: RailLedger) -> list[tuple[str, float]]:
    """What a rail measured that no site explains, by name."""
    return [("idle", rail.idle.energy_j), ("unattributed", rail.unattributed_j)]


def _stacks(rail: RailLedger, tree: calltree.CallTree, names: dict[int, str], ledger: Ledger) -> list[str]:
    own = calltree.energy_j(tree, ledger, rail.rail.id)
    stacks = [(";".join(names[site] for site in tree.path(node)), value) for node, value in enumerate(own)]
    stacks += parts(rail)
    drawn = [(stack, round(value * 1e9)) for stack, value in stacks if not math.isnan(value) and value > 0]
    unknown = sum(math.isnan(value) for _, value in stacks)
    below = math.fsum(value for _, value in stacks if value < 0)
    root = _clean(title(rail)) + _left_out(unknown, below)
    return [f"{root};{stack} {nanojoules}" for stack, nanojoules in drawn if nanojoules > 0]


def _left_out(unknown: int, below_j: float) -> str:
    said = [f"{unknown} chains not known"] if unknown else []
    said += [f"{joules(below_j)} below zero"] if below_j < 0 else []
    return f" (left out: {', '.join(said)})" if said else ""


def _clean(name: str) -> str:
    # A semicolon parts frames and a newline parts stacks.
    return name.replace(";", ":").replace("\n", " ").strip() or "(no name)"
