"""speedscope's file (speedscope.app/file-format-schema.json): one sampled profile a rail, in joules."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from typing import Any

from joulemeter import calltree
from joulemeter.ledger import Ledger, RailLedger
from joulemeter.report import folded
from joulemeter.run import Run
from joulemeter.span import Site

EXTENSION = "speedscope.json"
BINARY = False

SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def render(run: Run, ledger: Ledger) -> str:
    """One JSON object. Weights are joules; speedscope has no unit for them and shows plain numbers."""
    tree = calltree.of(run.spans)
    extra = ("idle", "unattributed")
    frames = [_frame(site) for site in run.sites] + [{"name": name} for name in extra]
    place = {site.id: index for index, site in enumerate(run.sites)}
    rest = {name: len(run.sites) + index for index, name in enumerate(extra)}
    document = {
        "$schema": SCHEMA,
        "name": " ".join(map(str, run.header.get("argv", ()))) or run.folder.name,
        "exporter": f"joulemeter@{version('joulemeter')}",
        "shared": {"frames": frames},
        "profiles": [_profile(rail, tree, ledger, place, rest) for rail in ledger.rails],
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"


def _frame(site: Site) -> dict[str, Any]:
    frame: dict[str, Any] = {"name": site.name}
    if site.file:
        frame |= {"file": site.file, "line": site.line, "col": site.column}
    return frame


def _profile(
    rail: RailLedger,
    tree: calltree.CallTree,
    ledger: Ledger,
    place: dict[int, int],
    rest: dict[str, int],
) -> dict[str, Any]:
    own = calltree.energy_j(tree, ledger, rail.rail.id)
    stacks = [([place[site] for site in tree.path(node)], float(value)) for node, value in enumerate(own)]
    stacks += [([rest[name]], value) for name, value in folded.parts(rail)]
    drawn = [(stack, value) for stack, value in stacks if value > 0]
    return {
        "type": "sampled",
        "name": f"{folded.title(rail)}, in joules",
        "unit": "none",
        "startValue": 0,
        "endValue": math.fsum(value for _, value in drawn),
        "samples": [stack for stack, _ in drawn],
        "weights": [value for _, value in drawn],
    }
