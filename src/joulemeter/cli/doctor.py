"""`joulemeter doctor`."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from joulemeter.doctor import RailCheck, SourceCheck


@click.command()
@click.option("--source", metavar="NAME,…", help="Check these too, such as rapl:/other/root or simulated.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(source: str | None, as_json: bool) -> None:
    """Which meters this machine has, how well they see, and how to mend those that do not answer.

    Watches each source for a second: how often it really refreshes, the power now, the noise floor (the
    spread of mean power over windows of 100 ms) and what a read costs.

    \b
      joulemeter doctor
      joulemeter doctor --json | jq '.sources[] | select(.found)'
    """
    from joulemeter import doctor, sources

    checks = doctor.check_all(sources.split_specs(source) if source else [])
    if as_json:
        found = list(checks)
        use = [check.spec for check in found if check.found and check.used]
        told = {"schema": 1, "use": use, "sources": [check.to_json() for check in found]}
        click.echo(json.dumps(told, indent=2))
        return
    used = []
    for check in checks:
        click.echo(_told(check))
        used += [check.spec] if check.used and check.found else []
    estimated = " (nothing is metered here: every figure will be an estimate)" if used == ["estimate"] else ""
    click.echo(_wrapped(f"A run uses: {', '.join(used)}{estimated}.", ""))


def _told(check: SourceCheck) -> str:
    from joulemeter.units import seconds

    if not check.found:
        told = (_wrapped(text, "    ") for text in (check.fact, f"Try: {check.remedy}"))
        return "\n".join([f"✗ {check.spec}", *told, ""])
    cost = f"a read costs {seconds(check.read_cpu_s)}, reading at its pace {check.core_share:.1%} of a core"
    return "\n".join([f"✓ {check.spec}: {cost}", *map(_rail, check.rails), ""])


def _rail(check: RailCheck) -> str:
    from joulemeter.units import seconds, watts

    rail = check.rail
    pace = f"a new value every {seconds(check.period_s)}"
    seen = f"{pace}, {watts(check.power_w)} now, noise ±{watts(check.noise_w)}"
    moves = check.power_w == check.power_w  # not NaN
    inside = ", part of another rail" if rail.inside is not None else ""
    told = seen if moves else "did not move while watched"
    text = f"{rail.name}: {rail.origin} {rail.kind}{inside}, {told}"
    gain = f"within ±{rail.relative_error:.0%}" if rail.relative_error else ""
    notes = "; ".join(filter(None, (gain, rail.note)))
    return "\n".join([_wrapped(text, "    "), *([_wrapped(notes, "      ")] if notes else [])])


def _wrapped(text: str, indent: str) -> str:
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    filler = textwrap.TextWrapper(
        width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return filler.fill(text)
