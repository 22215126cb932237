"""Keras 3: a saved ``.keras`` model, by the layers its configuration lists.

Only the configuration's JSON is read: no layer is built, no lambda deserialised, no weights opened. A
functional model carries the shape of everything each layer reads, a sequential one that of its input: what a
layer's result is follows from its settings. Sizes left open are those of the inputs given; a batch left open
is one where none is given.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any

from joulemeter.errors import GraphError
from joulemeter.graphs import MAX_NODES, Shapes, shape_of
from joulemeter.keras_layer import Layer, Made, dtype_of, unwrapped
from joulemeter.keras_operators import made
from joulemeter.kernel import DTYPE_BYTES
from joulemeter.network import Network, Node

SUFFIXES = (".keras",)

_MAX_JSON = 1 << 28
_MAX_DEPTH = 50
_MODELS = ("Functional", "Model", "Sequential")
_ODD = (KeyError, TypeError, IndexError, AttributeError, ValueError, ArithmeticError, RecursionError)
_AGAIN = "load it with Keras 3 and save it again"

Shape = tuple[int, ...]
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What a layer reads or makes: its name, its shape (None: not known) and its dtype."""

    name: str
    shape: Shape | None
    dtype: str = "float32"


def read(target: str, shapes: Shapes) -> Network:
    """The network in the ``.keras`` file ``target``. Raises GraphError where it is torn, a model of a class
    of one's own, or leaves sizes open that ``shapes`` do not give.
    """
    model = _model(target)
    try:
        inputs = _inputs(target, model, shapes)
        reader = _Reader(target)
        reader.model(model, "", [_Tensor(name, shape) for name, shape in inputs.items()], 0)
    except CycleError as error:
        raise GraphError(f"{target}: its layers go round in a circle", _AGAIN) from error
    except _ODD as error:
        fact = f"{target}: its configuration is not as Keras 3 writes it ({error!r})"
        raise GraphError(fact, _AGAIN) from error
    return Network(target, "keras", tuple(reader.nodes), inputs)


def _model(target: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(target) as archive:
            info = archive.getinfo("config.json")
            if info.file_size > _MAX_JSON:
                fact = f"{target}: its configuration is {info.file_size >> 20} MiB of text"
                raise GraphError(fact, "save it with its arrays as weights, not in the configuration")
            data = json.loads(archive.read(info))
    except (OSError, KeyError, zipfile.BadZipFile, ValueError, EOFError, RecursionError) as error:
        raise GraphError(f"{target}: is torn or no .keras file ({error})", "save it again") from error
    if not isinstance(data, dict) or data.get("class_name") not in _MODELS:
        kind = data.get("class_name") if isinstance(data, dict) else "nothing"
        fact = f"{target}: is a {kind}, which does not list its layers; functional and sequential models do"
        raise GraphError(fact, "keras.Model(inputs, model(inputs)).save(…)")
    return data


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────


def _inputs(target: str, model: Mapping[str, Any], shapes: Shapes) -> dict[str, Shape]:
    """The shape of each input: what was given where the file agrees, else the file's."""
    found = {}
    for i, (name, told) in enumerate(_told(model)):
        given = shape_of(name, i == 0, shapes)
        batch = given[0] if given else next((shape[0] for shape in shapes.values()), 1)
        if given is not None and (told is None or _fits(given, told)):
            found[name] = given
        elif told is None or None in told[1:]:
            sizes = "any size" if told is None else f"{tuple(told)}, None for what is open"
            sample = ",".join(str(size or 128) for size in [1, *(told or (1, 28, 28, 1))[1:]])
            raise GraphError(f"{target}: input {name} may be of {sizes}", f"--input {name}={sample}")
        else:
            found[name] = _closed(told, batch)
    return found


def _told(model: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[int | None] | None]]:
    """Each input in the model's order and the sizes that the file has for it; None where it has none."""
    config = model["config"]
    inputs = {_name(each): unwrapped(each["config"]["batch_shape"]) for each in config["layers"]
              if each["class_name"] == "InputLayer"}  # fmt: skip
    if model["class_name"] != "Sequential":
        yield from ((name, inputs[name]) for name, _, _ in _histories(config["input_layers"]))
    elif inputs:
        yield from inputs.items()
    else:
        built = (
            config.get("build_input_shape"),
            (config["layers"][0].get("build_config") or {}).get("input_shape"),
        )
        yield "input", next((unwrapped(each) for each in built if each), None)


def _fits(shape: Shape, told: Sequence[int | None]) -> bool:
    return len(shape) == len(told) and all(m is None or n == m for n, m in zip(shape, told, strict=True))


def _closed(told: Sequence[int | None], batch: int) -> Shape:
    first, *others = told
    return (batch if first is None else int(first), *(int(size) for size in others if size is not None))


# ── layers ───────────────────────────────────────────────────────────────────────────────────────────


class _Reader:
    """Models turned into nodes, one inside the other."""

    def __init__(self, target: str) -> None:
        self.target, self.nodes, self.used = target, list[Node](), 0

    def model(
        self, model: Mapping[str, Any], prefix: str, inputs: Sequence[_Tensor], depth: int
    ) -> list[_Tensor]:
        """The nodes of a model that reads ``inputs``; its results."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"models within models {_MAX_DEPTH} deep")
        if model["class_name"] == "Sequential":
            return [self._sequential(model, prefix, inputs[0], depth)]
        return self._functional(model, prefix, inputs, depth)

    def _sequential(self, model: Mapping[str, Any], prefix: str, x: _Tensor, depth: int) -> _Tensor:
        for layer in model["config"]["layers"]:
            if layer["class_name"] == "InputLayer":
                continue
            if (
                x.shape is None
            ):  # after a layer nobody has a formula for, the next that was built says what it reads
                told = (layer.get("build_config") or {}).get("input_shape")
                x = _Tensor(x.name, _known(None, told, 1) if told else None, x.dtype)
            x = self._use(layer, f"{prefix}{_name(layer)}", [x], depth)[0]
        return x

    def _functional(
        self, model: Mapping[str, Any], prefix: str, inputs: Sequence[_Tensor], depth: int
    ) -> list[_Tensor]:
        """Layers in an order in which each has what it reads; one that is used again runs again."""
        config = model["config"]
        uses = {(str(layer["name"]), i): (layer, use) for layer in config["layers"]
                for i, use in enumerate(layer["inbound_nodes"])}  # fmt: skip
        values: dict[tuple[str, int], list[_Tensor]] = {}
        for (name, node, _), given in zip(_histories(config["input_layers"]), inputs, strict=True):
            values[name, node] = [given]
        order: TopologicalSorter[Key] = TopologicalSorter()
        for key, (_, use) in uses.items():
            order.add(key, *(_history(each)[:2] for each in _tensors([use["args"], use["kwargs"]])))
        batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
        for key in order.static_order():
            if key in values:
                continue
            layer, use = uses[key]
            reads = [_read(each, values, batch) for each in _tensors([use["args"], use["kwargs"]])]
            again = f":{key[1]}" if key[1] else ""
            values[key] = self._use(layer, f"{prefix}{key[0]}{again}", reads, depth)
        return [_at(values, *each) for each in _histories(config["output_layers"])]

    def _use(self, layer: Mapping[str, Any], name: str, reads: list[_Tensor], depth: int) -> list[_Tensor]:
        """The nodes of one layer at one place; its results. Models count too: a few within each other, each
        used twice, would be a million.
        """
        self.used += 1
        if self.used > MAX_NODES:
            raise GraphError(f"{self.target}: uses more than {MAX_NODES} layers", "save a part of it")
        if layer["class_name"] in _MODELS:
            return self.model(layer, f"{name}.", reads, depth + 1)
        dtype = dtype_of(layer["config"], reads[0].dtype if reads else "float32")
        known = tuple(each.shape for each in reads if each.shape is not None)
        sources = tuple(each.name for each in reads)
        whole = len(known) == len(reads)
        found = made(Layer(layer["class_name"], layer["config"], known, dtype)) if whole else Made(None, None)
        if found.kernels is None:
            # What it writes is not in the file: as much as it reads is the best guess of its bytes.
            width = DTYPE_BYTES.get(dtype, math.nan)
            moved = 2 * width * math.fsum(math.prod(each) for each in known) if whole else math.nan
            reason = "no formula for it" if whole else "the shape of what it reads is not known"
            if dtype not in DTYPE_BYTES:
                reason = f"no formula for numbers of {dtype}"
            self.nodes.append(Node(None, layer["class_name"], name, name, sources, (name,), moved, reason))
        for i, kernel in enumerate(found.kernels or ()):
            writes = (name,) if i == len(found.kernels or ()) - 1 else (f"{name}+{i}",)
            self.nodes.append(Node(kernel, layer["class_name"], name, name, sources, writes))
            sources = writes
        return [_Tensor(name, found.out, dtype)]


def _name(layer: Mapping[str, Any]) -> str:
    return str(layer.get("name") or layer["config"]["name"])


def _read(told: Mapping[str, Any], values: Mapping[Key, Sequence[_Tensor]], batch: int) -> _Tensor:
    """A tensor among a call's arguments; its shape follows from what was read, else the file has it."""
    held = _at(values, *_history(told))
    return _Tensor(held.name, _known(held.shape, told["shape"], batch), str(told.get("dtype") or held.dtype))


def _at(values: Mapping[Key, Sequence[_Tensor]], name: str, node: int, place: int) -> _Tensor:
    """A result of a layer; of any but its first only the file knows the shape."""
    held = values[name, node]
    return held[place] if place < len(held) else _Tensor(held[0].name, None)


def _known(follows: Shape | None, told: Any, batch: int) -> Shape | None:
    """A shape that follows from a layer's settings where the file's sizes agree with it; else the file's,
    where it leaves no size open but the batch.
    """
    sizes = unwrapped(told)
    if follows is not None and _fits(follows[1:], sizes[1:]):
        return follows
    return None if None in sizes[1:] else _closed(sizes, follows[0] if follows else batch)


def _tensors(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every tensor among a call's arguments, however nested."""
    if isinstance(value, Mapping) and value.get("class_name") == "__keras_tensor__":
        yield value["config"]
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def _history(tensor: Mapping[str, Any]) -> tuple[str, int, int]:
    name, node, place = tensor["keras_history"]
    return str(name), int(node), int(place)


def _histories(value: Any) -> Iterator[tuple[str, int, int]]:
    """Every ``[layer, node, tensor]`` in a model's list of its inputs or results, however nested."""
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
        yield _history({"keras_history": value})
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _histories(each)
