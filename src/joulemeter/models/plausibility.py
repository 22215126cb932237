"""Records that contradict themselves: nothing is learnt from them, and nothing is tested on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from joulemeter.record import Record

FAR = 20.0
"""A power this many times the median of the device, or that many times below it, is a wrong figure."""
_FEW = 8


def implausible_power(records: Sequence[Record]) -> list[int]:
    """The numbers of the records whose power lies FAR from the median; none where fewer than 8 say one."""
    power = np.array([record.power_w for record in records], np.float64)
    known = power[np.isfinite(power) & (power > 0)]
    if len(known) < _FEW:
        return []
    median = float(np.median(known))
    return [int(i) for i in np.flatnonzero((power > FAR * median) | ((power > 0) & (power < median / FAR)))]
