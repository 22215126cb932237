"""What MLflow, Weights & Biases and TensorBoard hold, read back from their files by their own code."""

import struct
import time
from pathlib import Path

BLOCK = 32768


def tensorboard(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], list[str]]:
    """Scalars by tag, (step, value) each; and the texts that name an origin."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    scalars: dict[str, list[tuple[int, float]]] = {}
    texts: list[str] = []
    for place in sorted({path.parent for path in folder.rglob("*tfevents*")}):
        found = EventAccumulator(str(place), size_guidance={"scalars": 0, "tensors": 0})
        found.Reload()
        for tag in found.Tags()["scalars"]:
            scalars.setdefault(tag, []).extend((each.step, each.value) for each in found.Scalars(tag))
        for tag in found.Tags()["tensors"]:
            events = found.Tensors(tag)
            if "energy_origin" in tag:
                texts += [each.tensor_proto.string_val[0].decode() for each in events]
            elif events[0].tensor_proto.float_val or events[0].tensor_proto.tensor_content:
                scalars.setdefault(tag, []).extend((each.step, _scalar(each.tensor_proto)) for each in events)
    return scalars, texts


def _scalar(proto: object) -> float:
    return proto.float_val[0] if proto.float_val else struct.unpack("<f", proto.tensor_content[:4])[0]  # type: ignore[attr-defined]


def wandb(folder: Path) -> tuple[list[dict[str, float]], dict[str, object]]:
    """History rows and config of the one offline run in ``folder``: W&B's own protocol buffers, out of a log
    in LevelDB's format (https://github.com/google/leveldb/blob/main/doc/log_format.md) after seven bytes."""
    import json

    from wandb.proto import wandb_internal_pb2 as pb

    rows: list[dict[str, float]] = []
    config: dict[str, object] = {}
    (path,) = folder.rglob("*.wandb")
    # W&B's service may still be writing when ``finish`` returns: the last record is the run's exit.
    until, records = time.monotonic() + 20, []
    while not any(record.WhichOneof("record_type") == "exit" for record in records):
        assert time.monotonic() < until, f"{path.name} was never written to its end"
        time.sleep(0.02)
        records = [pb.Record.FromString(data) for data in _log_records(path.read_bytes())]
    for record in records:
        if record.WhichOneof("record_type") == "history":
            keys = ((item.key or item.nested_key[0], item.value_json) for item in record.history.item)
            rows.append({key: json.loads(value) for key, value in keys})
        for update in (*record.config.update, *record.run.config.update):
            config[update.key or update.nested_key[0]] = json.loads(update.value_json)
    return rows, config


def _log_records(data: bytes) -> list[bytes]:
    """The records that are whole so far."""
    assert data[:4] in (b":W&B", b"")
    records, parts, at = [], b"", 7
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if kind == 0 or at + 7 + length > len(data):
            break
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(parts)
            parts = b""
    return records


def mlflow(uri: str) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    """Metrics by key, (step, value) each, and tags and parameters of the one run of a store."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    history = {
        key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }
    return history, {**run.data.tags, **run.data.params}
