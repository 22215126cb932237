"""The options for carbon and cost, for every command that shows a ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from joulemeter.ledger import Ledger

_OPTIONS = (
    click.option("--carbon-intensity", metavar="G/KWH", help="Grams of CO2e per kWh: 342, or 300..380."),
    click.option(
        "--zone", metavar="CODE", help="Carbon intensity of a country by ISO code: FR, DEU, EU, WORLD."
    ),
    click.option(
        "--pue", type=float, default=1.0, show_default=True, help="The data centre's overhead factor."
    ),
    click.option("--price", type=float, metavar="PER_KWH", help="Price of a kWh."),
    click.option("--currency", default="EUR", show_default=True, help="What the price is in."),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; their values come as ``carbon_intensity``, ``zone`` and so on."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def noted(
    ledger: Ledger,
    *,
    carbon_intensity: str | None,
    zone: str | None,
    pue: float,
    price: float | None,
    currency: str,
) -> Ledger:
    """The ledger with carbon and cost of its total among its notes, where they were asked for."""
    if carbon_intensity is None and zone is None and price is None:
        return ledger
    from joulemeter import carbon
    from joulemeter.errors import UsageError

    if carbon_intensity is not None and zone is not None:
        raise UsageError("--carbon-intensity and --zone both say the carbon intensity", "one of them")
    intensity = carbon.zone(zone) if zone is not None else None
    if carbon_intensity is not None:
        intensity = carbon.parse_intensity(carbon_intensity)
    return carbon.noted(ledger, carbon.footprint(ledger.total, intensity, pue, price, currency))
