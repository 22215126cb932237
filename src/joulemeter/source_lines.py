"""The lines of source that spent joules, for pages that show them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from joulemeter.ledger import Ledger, SiteRail
from joulemeter.run import Run

MOST_FILES = 20
MOST_BYTES = 400_000
"""Larger files are generated ones: nobody reads them, and the page would not be small."""


def files(run: Run, ledger: Ledger) -> tuple[list[dict[str, Any]], list[str]]:
    """The source files of the run's sites, dearest first, and the paths of those that cannot be read.

    Each has ``path``, ``text`` (its lines), ``changed`` (whether it is newer than the run) and ``lines``: by
    rail and line the own joules of the sites there. Errors of the sites on a line add up.
    """
    by_path: dict[str, dict[int, dict[int, dict[str, Any]]]] = {}
    for site in ledger.sites:
        if site.site.file and site.site.line > 0:
            rails = by_path.setdefault(site.site.file, {})
            for entry in site.rails:
                _add(rails.setdefault(entry.rail, {}), site.site.line, entry)
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    for path in sorted(by_path, key=lambda path: -_size(by_path[path])):
        text = _read(path, run)
        if text is None:
            missing.append(path)
        elif len(found) < MOST_FILES:
            found.append({**text, "path": path, "lines": by_path[path]})
    return found, missing


def _add(lines: dict[int, dict[str, Any]], line: int, entry: SiteRail) -> None:
    own = entry.exclusive
    if math.isnan(own.energy_j):
        return
    sums = lines.setdefault(line, {"energy_j": 0.0, "low_j": 0.0, "high_j": 0.0, "doubtful": False})
    for key in ("energy_j", "low_j", "high_j"):
        value = getattr(own, key)
        sums[key] = None if math.isnan(value) or sums[key] is None else sums[key] + value
    sums["doubtful"] = sums["doubtful"] or not entry.resolved


def _size(rails: dict[int, dict[int, dict[str, Any]]]) -> float:
    return math.fsum(each["energy_j"] or 0.0 for lines in rails.values() for each in lines.values())


def _read(path: str, run: Run) -> dict[str, Any] | None:
    place = Path(run.header.get("cwd", "."), path)
    try:
        if not place.is_file() or place.stat().st_size > MOST_BYTES:
            return None
        text = place.read_text(encoding="utf-8")
        changed_ns = place.stat().st_mtime_ns
    except (OSError, UnicodeDecodeError, ValueError):
        return None
    begun_ns = run.header.get("start", {}).get("wall_ns")
    return {"text": text.splitlines(), "changed": bool(begun_ns) and changed_ns > begun_ns}
