"""Where a data set lies, as an argument: a path, or a URL that fsspec knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from joulemeter import storage


class _Place(click.ParamType[storage.Where]):
    # As a Path, s3://bucket would lose a slash.
    name = "path or url"

    def convert(self, value: Any, param: Any, ctx: Any) -> storage.Where:
        return value if isinstance(value, Path) or storage.is_url(value) else Path(value)


PLACE = _Place()
