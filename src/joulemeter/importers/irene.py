"""IrEne (Cao et al., ACL 2021): transformer energies at three levels, a folder of CSV files.

``<device>_ml1`` and ``<device>_ml2`` hold primitives (layers; matrix products and softmax),
``<device>_module`` modules, ``<device>_model`` whole networks. ``flops`` is in millions, ``mem_bytes`` in
MiB (of traffic; its share of reads and writes is not said, so it stands as read), ``times_mean`` in
seconds, ``energy_mean`` in joules at the wall.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from joulemeter.errors import DatasetError
from joulemeter.importers import TABLE, Imported, number
from joulemeter.record import Level, Record

LAYOUT = "IrEne (a folder with ml1, ml2, module and model)"
_FILE = re.compile(r"(?:(?P<device>.+)_)?(?P<kind>ml1|ml2|module|model)\.csv(?:\.gz)?")
_LEVELS: dict[str, Level] = {"ml1": "kernel", "ml2": "kernel", "module": "module", "model": "model"}
_MIB = 2.0**20
_FACTS = ("cpu", "mem", "gpu", "gpu_mem", "gpu_clk", "gpu_mem_clk", "gpu_energy_mean")


def recognises(path: Path) -> bool:
    """A folder with a ``…model.csv`` or ``…ml1.csv``, gzipped or not."""
    return path.is_dir() and any(_FILE.fullmatch(each.name) for each in path.iterdir())


def read(path: Path) -> Imported:
    """One record a row; a primitive's family is its type, a network's is ``network``."""
    records: list[Record] = []
    lost: Counter[str] = Counter()
    for each in sorted(path.iterdir()):
        found = _FILE.fullmatch(each.name)
        if found is None:
            continue
        for row in _rows(each):
            record = _record(row, found["kind"], found["device"] or path.name, each.name)
            if record is None:
                lost[each.name] += 1
            else:
                records.append(record)
    return Imported(tuple(records), tuple(f"{n} row(s) of {what} without energy" for what, n in lost.items()))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: cannot be read as a table ({error})", TABLE) from error
    needed = {"batch_size", "seq_len", "flops", "mem_bytes", "energy_mean", "level_name", "model_name"}
    missing = needed - set(rows[0] if rows else needed)
    if missing:
        raise DatasetError(
            f"{path}: lacks the column(s) {', '.join(sorted(missing))}", "the table as IrEne published it"
        )
    return rows


def _record(row: Mapping[str, str], kind: str, device: str, source: str) -> Record | None:
    energy_j, batch, sequence = (number(row.get(n)) for n in ("energy_mean", "batch_size", "seq_len"))
    if not energy_j > 0 or math.isnan(batch) or math.isnan(sequence):
        return None
    place, _, type_name = row["level_name"].rpartition(":")
    level = _LEVELS[kind]
    time_s = number(row.get("times_mean"))
    return Record(
        level=level,
        family="network" if level == "model" else type_name,
        name="network" if level == "model" else type_name,
        network=row["model_name"],
        path="" if level == "model" else place,
        origin="measured",
        device=device,
        backend="pytorch",
        batch=round(batch),
        shape={"sequence": round(sequence), **_sizes(row)},
        flops=number(row.get("flops")) * 1e6,
        read_bytes=number(row.get("mem_bytes")) * _MIB,
        write_bytes=0.0,
        parameters=0.0,
        time_s=time_s,
        power_w=energy_j / time_s if time_s > 0 else math.nan,
        energy_j=energy_j,
        source=source,
        facts={name: number(row[name]) for name in _FACTS if not math.isnan(number(row.get(name)))},
    )


def _sizes(row: Mapping[str, str]) -> dict[str, int]:
    """FLOPs and bytes stand in for the dimensions, which the layout does not give."""
    flops, mem = number(row.get("flops")), number(row.get("mem_bytes"))
    return {
        "flops": 0 if math.isnan(flops) else round(flops * 1e6),
        "bytes": 0 if math.isnan(mem) else round(mem * _MIB),
    }
