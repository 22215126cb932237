"""The card of a data set: Croissant 1.0, a JSON-LD vocabulary on schema.org (mlcommons.org/croissant)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from joulemeter.record import SCHEMA, Record

if TYPE_CHECKING:
    from joulemeter.dataset import Dataset

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_TYPES = {"int": "sc:Integer", "float": "sc:Float", "bool | None": "sc:Boolean"}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "equivalentProperty": "cr:equivalentProperty",
    "samplingRate": "cr:samplingRate",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "citeAs": "cr:citeAs",
}


def croissant(dataset: Dataset, parts: Mapping[str, bytes]) -> dict[str, Any]:
    """The card of ``dataset``, whose rows lie in ``parts`` (Parquet files of one folder, by name)."""
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": dataset.name,
        "version": f"{SCHEMA}.0.0",
        "description": _description(dataset),
        "variableMeasured": ["energy (J)", "time (s)", "power (W)"],
        "distribution": [_file(name, content) for name, content in parts.items()] + [_files()],
        "recordSet": [_record_set()],
    }


def _description(dataset: Dataset) -> str:
    records = dataset.records
    counts = [
        f"{what}: " + ", ".join(f"{name} {count}" for name, count in sorted(tally.items()))
        for what, tally in (
            ("Levels", Counter(record.level for record in records)),
            ("Origins", Counter(record.origin for record in records)),
            ("Devices", Counter(record.device or "unnamed" for record in records)),
            ("Families", Counter(record.family for record in records)),
        )
    ]
    lost = [f"Left out on import: {'; '.join(dataset.left_out)}"] if dataset.left_out else []
    return ". ".join([f"Energy of {len(records)} executions, one a row", *counts, *lost]) + "."


def _file(name: str, content: bytes) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{len(content)} B",
        "encodingFormat": "application/x-parquet",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _files() -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "parts",
        "name": "parts",
        "encodingFormat": "application/x-parquet",
        "includes": "part-*.parquet",
    }


def _record_set() -> dict[str, Any]:
    columns = [_field(column) for column in fields(Record)]
    return {"@type": "cr:RecordSet", "@id": "records", "name": "records", "field": columns}


def _field(column: Any) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"records/{column.name}",
        "name": column.name,
        "dataType": _TYPES.get(str(column.type), "sc:Text"),
        "source": {"fileSet": {"@id": "parts"}, "extract": {"column": column.name}},
    }
