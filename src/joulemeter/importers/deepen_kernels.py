"""Kernel energies in the words of nn-Meter and DeepEn2023: HW, CIN, COUT, KERNEL_SIZE, STRIDES, millijoules.

Two layouts of the same columns: a table (CSV, a column ``kernel`` where there is more than one family), and
JSON of family → id → ``{"config": {…}, "shapes": […], "energy", "latency", "power"}``.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from joulemeter.errors import DatasetError
from joulemeter.importers import TABLE, Imported, head, number
from joulemeter.kernel import Value, Work
from joulemeter.record import Record

LAYOUT = "DeepEn2023 kernels (CSV or JSON)"

FAMILIES = {"bnrelu": "bn-relu", "addrelu": "add-relu", "global-pool": "global-avgpool"}
"""Published names of families that have another one here."""
_FLOAT = 4
_RESOLUTION_J = 1e-6
"""Energies are given in millijoules with three decimals."""
_ELEMENTWISE_FLOPS = {"relu": 1, "hswish": 4, "bn": 2, "bn-relu": 3, "add": 1, "add-relu": 2}
_SQUEEZE = 4
"""Channels over squeezed channels of an se block, as nn-Meter builds it."""


def recognises(path: Path) -> bool:
    """A CSV with ``HW`` and ``energy_mJ``, or a JSON object of objects with ``energy``."""
    start = head(path)
    columns = start.split("\n")[0].strip().split(",")
    if "energy_mJ" in columns and "HW" in columns:
        return True
    return start.lstrip().startswith("{") and '"energy' in start and "@context" not in start


def read(path: Path) -> Imported:
    """One record a row, with the family's published name in ``name``; rows without energy are left out."""
    rows = list(_json_rows(path) if head(path).lstrip().startswith("{") else _table_rows(path))
    lost: Counter[str] = Counter()
    records = []
    for row in rows:
        reason = _reason_to_leave_out(row)
        if reason:
            lost[f"{row.get('kernel', '?')}: {reason}"] += 1
        else:
            records.append(record(row, path.name))
    return Imported(
        tuple(records), tuple(f"{count} row(s) of {what}" for what, count in sorted(lost.items()))
    )


def _table_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for row in csv.DictReader(io.StringIO(content.decode("utf-8-sig"))):
            values = {key: value for key, value in row.items() if key and value not in (None, "")}
            yield {"kernel": "conv-bn-relu", **values}
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as a table ({error})", TABLE) from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        families = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(
            f"{path}: cannot be read as JSON ({error})", "download or export it again"
        ) from error
    for family, entries in families.items():
        if not isinstance(entries, Mapping):
            raise DatasetError(
                f"{path}: '{family}' holds no entries by id",
                f'{{"{family}": {{"0": {{"config": {{…}}, "energy": …}}, …}}}}',
            )
        for name, entry in entries.items():
            yield _flattened(str(family), str(name), entry if isinstance(entry, Mapping) else {})


def _flattened(family: str, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    config = entry.get("config", {})
    row = {"kernel": family, "id": name, **(config if isinstance(config, Mapping) else {})}
    if "shapes" in entry:
        row["shapes"] = json.dumps(entry["shapes"])
    for key, column in (("energy", "energy_mJ"), ("latency", "latency_ms"), ("power", "power_mW")):
        given = entry.get(column, entry.get(key))
        if given is not None:
            row[column] = given
    return row


def _reason_to_leave_out(row: Mapping[str, Any]) -> str | None:
    energy = number(row.get("energy_mJ"))
    if math.isnan(energy) or energy <= 0:
        return "no energy above zero"
    return None if _size(row) or _dimension(row, "CIN") else "no configuration"


def record(row: Mapping[str, Any], source: str) -> Record:
    """A row in the published words as a record."""
    published = str(row["kernel"])
    family = FAMILIES.get(published, published)
    shape = _shape(family, row)
    work = _work(family, shape)
    facts = {"resolution_j": _RESOLUTION_J} | ({"id": row["id"]} if "id" in row else {})
    return Record(
        level="kernel",
        family=family,
        name=published,
        origin="measured",
        backend="tflite",
        shape=shape,
        flops=work.flops,
        read_bytes=work.read_bytes,
        write_bytes=work.write_bytes,
        parameters=work.parameters,
        time_s=number(row.get("latency_ms")) / 1e3,
        power_w=number(row.get("power_mW")) / 1e3,
        energy_j=number(row.get("energy_mJ")) / 1e3,
        source=source,
        facts=facts,
    )


def _dimension(row: Mapping[str, Any], column: str) -> int:
    value = number(row.get(column))
    return 0 if math.isnan(value) else round(value)


def _size(row: Mapping[str, Any]) -> int:
    """The image's height: HW, or the first of the shapes."""
    return _dimension(row, "HW") or next((s[0] for s in _shapes(row) if len(s) == 3), 0)


def _shapes(row: Mapping[str, Any]) -> list[list[int]]:
    try:
        shapes = json.loads(row.get("shapes", "[]"))
    except (ValueError, TypeError):
        return []
    return [s for s in shapes if isinstance(s, list) and all(isinstance(n, int) for n in s)]


def _shape(family: str, row: Mapping[str, Any]) -> dict[str, Value]:
    """The row's configuration in Joulemeter's words."""
    c_in, c_out = _dimension(row, "CIN"), _dimension(row, "COUT")
    if family.startswith("fc"):
        return {"rows": 1, "in_features": c_in, "out_features": c_out}
    size = _size(row)
    shape: dict[str, Value] = {"height": size, "width": size}
    if family == "concat":
        parts = [_dimension(row, f"CIN{i}") for i in (1, 2, 3, 4)]
        parts = [part for part in parts if part] or [s[-1] for s in _shapes(row)]
        parts += [0] * (4 - len(parts))
        return shape | {f"part_{i}": part for i, part in enumerate(sorted(parts, reverse=True))}
    shape["in_channels"] = c_in or next((s[-1] for s in _shapes(row)), 1)
    window = _dimension(row, "KERNEL_SIZE")
    if window:
        stride = _dimension(row, "POOL_STRIDES") or _dimension(row, "STRIDES") or 1
        shape |= {
            "kernel_height": window,
            "kernel_width": window,
            "stride_height": stride,
            "stride_width": stride,
        }
    if family.startswith("dwconv"):
        shape |= {"out_channels": shape["in_channels"], "groups": shape["in_channels"]}
    elif c_out and family.startswith("conv"):
        shape["out_channels"] = c_out
    return shape


def _work(family: str, shape: Mapping[str, Value]) -> Work:
    """Work at batch 1 in float32; padding keeps the size ("same"), so a result has ⌈n / stride⌉ rows."""
    d = {name: int(value) for name, value in shape.items()}
    if family.startswith("fc"):
        weights = d["in_features"] * d["out_features"]
        flops = 2 * weights
        return _bytes(flops, d["in_features"] + weights, d["out_features"], weights)
    pixels = d["height"] * d["width"]
    results = math.ceil(d["height"] / d.get("stride_height", 1)) * math.ceil(
        d["width"] / d.get("stride_width", 1)
    )
    window = d.get("kernel_height", 1) * d.get("kernel_width", 1)
    c_in = d.get("in_channels") or sum(value for name, value in d.items() if name.startswith("part_"))
    if "out_channels" in d:
        # A MAC for each result, each input channel of its group, each place of the window.
        weights = d["out_channels"] * c_in // d.get("groups", 1) * window
        flops = 2 * results * weights
        return _bytes(flops, pixels * c_in + weights, results * d["out_channels"], weights)
    if family == "se":
        # Mean over the image, two products with C²/4 weights each, and a product with the image.
        weights = 2 * c_in * c_in // _SQUEEZE
        return _bytes(2 * pixels * c_in + 2 * weights, 2 * pixels * c_in + weights, pixels * c_in, weights)
    if family == "global-avgpool":
        return _bytes(pixels * c_in, pixels * c_in, c_in, 0)
    flops = results * c_in * (window if "kernel_height" in d else _ELEMENTWISE_FLOPS.get(family, 0))
    inputs = 2 if family.startswith("add") else 1
    return _bytes(flops, inputs * pixels * c_in, results * c_in, 0)


def _bytes(flops: float, read: float, written: float, parameters: float) -> Work:
    return Work(float(flops), float(_FLOAT * read), float(_FLOAT * written), float(parameters))
