"""Joulemeter: where the joules of deep-learning code go, each number with its origin and an interval.

    with joulemeter.Meter() as meter:
        train()
    print(meter.energy, meter.ledger)

The names below are imported when they are first used, so that ``import joulemeter`` costs milliseconds.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Energy": "joulemeter.ledger",
    "JoulemeterError": "joulemeter.errors",
    "Ledger": "joulemeter.ledger",
    "Meter": "joulemeter.meter",
    "Rail": "joulemeter.reading",
    "Run": "joulemeter.run",
    "attribute": "joulemeter.attribution",
    "load": "joulemeter.run",
    "metered": "joulemeter.meter",
}

__all__ = [
    "Energy",
    "JoulemeterError",
    "Ledger",
    "Meter",
    "Rail",
    "Run",
    "attribute",
    "load",
    "metered",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    try:
        return import_module(f"joulemeter.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"joulemeter.{name}":
            raise
    raise AttributeError(f"module 'joulemeter' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
