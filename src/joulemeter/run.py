"""The run folder: raw readings and spans, written and read.

While a run is recorded, its folder holds ``run.json`` (state ``recording``) and ``raw/``: files that only
grow, so that whatever was written outlives the death of whoever wrote it. ``finish`` turns them into
``readings.parquet`` and ``spans.parquet``; ``load`` reads either form, and any folder of the documented
layout, whoever wrote it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joulemeter.errors import RunFolderError
from joulemeter.reading import Rail
from joulemeter.span import Site, Spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from joulemeter.timeline import Timeline

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it was recorded. ``header`` is ``run.json`` less rails and sites.

    ``reading_rail`` int16 (m,), ``reading_t_ns`` int64 (m,), ``reading_value`` float64 (m,).
    """

    folder: Path
    header: dict[str, Any]
    rails: tuple[Rail, ...]
    sites: tuple[Site, ...]
    spans: Spans
    reading_rail: NDArray[np.int16]
    reading_t_ns: NDArray[np.int64]
    reading_value: NDArray[np.float64]
    notes: tuple[str, ...] = field(default=())

    @property
    def interrupted(self) -> bool:
        """Whether the run ended before its end was written."""
        return bool(self.header.get("interrupted", False))

    def timelines(self) -> list[Timeline]:
        """One timeline a rail, in the order of ``rails``."""
        from joulemeter import timeline

        made = []
        for rail in self.rails:
            mine = self.reading_rail == rail.id
            made.append(timeline.from_readings(rail, self.reading_t_ns[mine], self.reading_value[mine]))
        return made
