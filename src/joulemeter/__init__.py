"""Joulemeter: where the joules of deep-learning code go, each number with its origin and an interval.

    with joulemeter.Meter() as meter:
        train()
    print(meter.energy, meter.ledger)

The names below are imported when they are first used, so that ``import joulemeter`` costs milliseconds.
"""

from importlib import import_module

_HOME = {
    "Energy": "joulemeter.ledger",
    "JoulemeterError": "joulemeter.errors",
    "Ledger": "joulemeter.ledger",
    "Meter": "joulemeter.meter",
    "Rail": "joulemeter.reading",
    "Run": "joulemeter.run",
    "attribute": "joulemeter.attribution",
    "load": "joulemeter.run",
    "load_ipython_extension": "joulemeter.jupyter",
    "unload_ipython_extension": "joulemeter.jupyter",
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
    "load_ipython_extension",
    "metered",
    "unload_ipython_extension",
]


def __getattr__(name: str) -> object:
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
