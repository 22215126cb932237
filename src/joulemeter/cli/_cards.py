"""Reports of what is no run folder: data sets, predictors, energy models and scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulemeter.errors import UsageError

if TYPE_CHECKING:
    from joulemeter.ledger import Ledger
    from joulemeter.run import Run


def shown(path: Path, form: str) -> str | None:
    """The report of what ``path`` holds; None where that is no data set, predictor, energy model or scores.

    Raises UsageError for a format that only runs have.
    """
    from joulemeter import cards

    scores = cards.scores_of(path)
    if scores is not None:
        return _scores(scores, form)
    found = cards.card_of(path)
    if found is None:
        return None
    from joulemeter.report.card import render_card

    return render_card(found, form)


def _scores(data: dict[str, Any], form: str) -> str:
    import json

    from joulemeter.cli.score import as_text
    from joulemeter.report import leaderboard

    makers = {
        "text": lambda: as_text(data) + "\n",
        "html": lambda: leaderboard.page(data),
        "json": lambda: json.dumps(data, indent=1, ensure_ascii=False) + "\n",
    }
    if form not in makers:
        raise UsageError(f"scores cannot be shown as '{form}'", f"one of {', '.join(makers)}")
    return makers[form]()


def compared(form: str, after: tuple[Run, Ledger], before: tuple[Run, Ledger]) -> str:
    """The page of a run compared with the run ``before``; raises UsageError for a format without one."""
    from joulemeter.report import html

    if form != "html":
        raise UsageError(f"--against cannot be shown as '{form}'", "--format html, or joulemeter compare")
    return html.page(*after, before=before)
