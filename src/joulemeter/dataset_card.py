"""The card of a data set: Croissant 1.0, a JSON-LD vocabulary on schema.org (mlcommons.org/croissant)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from joulemeter.record import SCHEMA, Record

if TYPE_CHECKING:
    import pyarrow

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


def croissant(
    name: str, rows: pyarrow.Table, parts: Mapping[str, bytes], left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """The card of the data set ``name``, whose ``rows`` lie in ``parts``, Parquet files by name."""
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "version": f"{SCHEMA}.0.0",
        "description": _description(rows, left_out),
        "variableMeasured": ["energy (J)", "time (s)", "power (W)"],
        "distribution": [_file(part, content) for part, content in parts.items()] + [_files()],
        "recordSet": [_record_set()],
    }


def _description(rows: pyarrow.Table, left_out: Sequence[str]) -> str:
    columns = {"Levels": "level", "Origins": "origin", "Devices": "device", "Families": "family"}
    counts = [f"{what}: {', '.join(_tally(rows[column]))}" for what, column in columns.items()]
    lost = [f"Left out on import: {'; '.join(left_out)}"] if left_out else []
    return ". ".join([f"Energy of {len(rows)} executions, one a row", *counts, *lost]) + "."


def _tally(column: pyarrow.ChunkedArray) -> list[str]:
    """How often each value is there: ``unnamed`` where there is none."""
    counts = {each["values"] or "unnamed": each["counts"] for each in column.value_counts().to_pylist()}
    return [f"{value} {count}" for value, count in sorted(counts.items())]


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
