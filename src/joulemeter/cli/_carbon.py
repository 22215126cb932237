"""The options by which a command says joules as carbon and money too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from joulemeter.carbon import Footprint
    from joulemeter.ledger import Energy


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --carbon-intensity, --zone, --pue, --price and --currency to a command."""
    for option in (
        click.option("--currency", default="EUR", show_default=True, help="What --price is in."),
        click.option("--price", type=float, metavar="PER_KWH", help="Price of a kWh: also print the cost."),
        click.option(
            "--pue", type=float, default=1.0, show_default=True, help="Power usage effectiveness of the site."
        ),
        click.option("--zone", metavar="CODE", help="Also print carbon, by this country's yearly mean."),
        click.option(
            "--carbon-intensity",
            "intensity",
            metavar="G_PER_KWH",
            help="Also print carbon, at 342 or 300..380.",
        ),
    ):
        function = option(function)
    return function


def footprint(
    energy: Energy, intensity: str | None, zone: str | None, pue: float, price: float | None, currency: str
) -> Footprint | None:
    """What the options ask for; None where they ask for nothing."""
    from joulemeter import carbon
    from joulemeter.errors import UsageError

    if intensity is not None and zone is not None:
        raise UsageError("--carbon-intensity and --zone both say how dirty the electricity is", "one of them")
    if intensity is None and zone is None and price is None:
        return None
    found = (
        carbon.parse_intensity(intensity)
        if intensity is not None
        else carbon.zone(zone)
        if zone is not None
        else None
    )
    return carbon.footprint(energy, found, pue, price, currency)
