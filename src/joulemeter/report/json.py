"""The report as one JSON object: the keys of the documented schema, and more."""

from __future__ import annotations

import json

from joulemeter.ledger import Ledger
from joulemeter.run import Run

EXTENSION = "json"
BINARY = False

_HEADER_KEYS = ("host", "argv", "cwd", "start", "end", "exit_status", "sampler", "state")


def render(run: Run, ledger: Ledger) -> str:
    """One JSON object and a newline; what is not known is null."""
    header = {key: run.header[key] for key in _HEADER_KEYS if key in run.header}
    document = {**ledger.to_json(), "interrupted": run.interrupted, "run": header}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
