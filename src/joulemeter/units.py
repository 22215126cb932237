"""Conversions at the edges: how quantities are read and printed. Inside there is only SI."""

import math
import re

from joulemeter.errors import UsageError

_PREFIXES = [
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
]
_FACTORS = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0, "m": 1e-3, "µ": 1e-6, "u": 1e-6, "n": 1e-9}
_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_YEAR_S = 365.25 * 86400
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([A-Za-zµ%]*)\s*")


def si(value: float, unit: str, digits: int = 3) -> str:
    """``value`` with an SI prefix and ``digits`` significant digits: ``si(1234, "J")`` is ``1.23 kJ``.

    NaN prints as ``unknown``; zero as ``0 J``.
    """
    if math.isnan(value):
        return "unknown"
    if abs(value) < 1e-12 or math.isinf(value):  # rounding of sums is not a quantity
        return f"{round(value) if abs(value) < 1 else value:g} {unit}"
    factor, prefix = _prefix(abs(value), digits)
    return f"{_significant(value / factor, digits)} {prefix}{unit}"


def _prefix(size: float, digits: int) -> tuple[float, str]:
    rounded = float(f"{size:.{digits - 1}e}")
    return next(((f, p) for f, p in _PREFIXES if rounded >= f), _PREFIXES[-1])


def _significant(value: float, digits: int) -> str:
    rounded = float(f"{value:.{digits - 1}e}")
    whole = max(1, math.floor(math.log10(abs(rounded))) + 1) if rounded else 1
    return f"{rounded:.{max(0, digits - whole)}f}"


def joules(value: float) -> str:
    """An energy as it is printed: ``1.23 kJ``."""
    return si(value, "J")


def watts(value: float) -> str:
    """A power as it is printed: ``45.0 W``."""
    return si(value, "W")


def seconds(value: float) -> str:
    """A duration as it is printed: ``1.21 s``, ``2 min 05 s``, ``3 h 20 min``, ``4 d 04 h``, ``59 years``."""
    if not value >= 120:  # also NaN
        return si(value, "s")
    if value >= 2 * _YEAR_S:
        years = value / _YEAR_S
        return f"{years:,.{1 if years < 10 else 0}f} years"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days > 1:
        return f"{days} d {hours_of_day:02d} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def parse_energy_j(text: str) -> float:
    """Joules from ``5 J``, ``1.2kJ``, ``3 Wh``, ``0.1 kWh``; raises UsageError on anything else."""
    number, unit = _split(text)
    for ending, joules_each in (("Wh", 3600.0), ("J", 1.0)):
        prefix = unit.removesuffix(ending)
        if unit.endswith(ending) and prefix in _FACTORS:
            return number * _FACTORS[prefix] * joules_each
    raise UsageError(f"'{text}' is not an energy", "a number with J or Wh, such as '5 J' or '1.2 kWh'")


def parse_seconds(text: str) -> float:
    """Seconds from ``10ms``, ``2 s``, ``30m``, ``1.5h`` or a bare number; raises UsageError otherwise."""
    number, unit = _split(text)
    if (unit or "s") in _SECONDS:
        return number * _SECONDS[unit or "s"]
    raise UsageError(f"'{text}' is not a duration", "a number with ns, us, ms, s, m, h or d, such as '10ms'")


def parse_fraction(text: str) -> float:
    """A fraction from ``5%``, ``0.05``; raises UsageError otherwise."""
    number, unit = _split(text)
    if unit in ("", "%"):
        return number / 100 if unit else number
    raise UsageError(f"'{text}' is not a fraction", "a percentage such as '5%'")


def _split(text: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UsageError(f"'{text}' is not a quantity", "a number and a unit")
    return float(match[1]), match[2]
