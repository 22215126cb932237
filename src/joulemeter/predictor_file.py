"""Predictors on disk: one zip of ``predictor.json`` and ``arrays.npz``. Loading one never runs code.

The JSON is the tree of the predictor with a name in place of each array; the arrays are plain numbers
(``allow_pickle`` is off). Whatever does not have the shape it should is refused with a line.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from joulemeter.errors import PredictorError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from joulemeter.models.gaussian import Process
    from joulemeter.models.predictor import Family, Predictor
    from joulemeter.models.regression import Member
    from joulemeter.models.trees import Trees

SCHEMA = 4
"""4: more costs in the physical ground."""
_LARGEST = 2**31
"""Bytes that a member of the zip may unpack to: more is a bomb, not a predictor."""


def save(predictor: Predictor, path: str | Path) -> Path:
    """Writes ``predictor`` to ``path`` whole or not at all; returns the path."""
    import numpy as np

    arrays: dict[str, NDArray[Any]] = {}
    tree = _predictor_tree(predictor, arrays)
    packed = io.BytesIO()
    np.savez_compressed(packed, **cast("dict[str, Any]", arrays))
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:
        file.writestr("predictor.json", json.dumps(tree, allow_nan=False))
        file.writestr("arrays.npz", packed.getvalue())
    partial.replace(path)
    return path


def load(path: str | Path) -> Predictor:
    """The predictor in ``path``; raises PredictorError where it is not one, newer, or damaged."""
    path = Path(path)
    try:
        tree, arrays = _unpacked(path)
    except FileNotFoundError:
        raise PredictorError(f"{path}: is not there", "joulemeter fit DATASET -o PREDICTOR") from None
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, RecursionError, EOFError) as error:
        raise PredictorError(
            f"{path}: is not a predictor ({error})", "joulemeter fit, to make one"
        ) from error
    if not isinstance(tree, dict) or tree.get("format") != "joulemeter predictor":
        raise PredictorError(f"{path}: is not a predictor", "joulemeter fit, to make one")
    if tree.get("schema") != SCHEMA:
        raise PredictorError(
            f"{path}: schema {tree.get('schema')}, this reads {SCHEMA}",
            "joulemeter fit anew with this version",
        )
    try:
        return _predictor(tree, arrays)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise PredictorError(
            f"{path}: is damaged ({type(error).__name__}: {error})", "joulemeter fit, to make it anew"
        ) from error


def _unpacked(path: Path) -> tuple[Any, dict[str, NDArray[Any]]]:
    import numpy as np

    with zipfile.ZipFile(path) as file:
        tree = json.loads(_member(file, "predictor.json"))
        packed = _member(file, "arrays.npz")
    with zipfile.ZipFile(io.BytesIO(packed)) as inner:
        if sum(info.file_size for info in inner.infolist()) > _LARGEST:
            raise ValueError("its arrays are too large")
        for info in inner.infolist():
            _check_size(inner, info)
    with np.load(io.BytesIO(packed), allow_pickle=False) as loaded:
        return tree, {name: loaded[name] for name in loaded.files}


def _check_size(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Refuses an array whose header promises more than its file holds, before memory is taken for it."""
    from numpy.lib import format as npy

    with file.open(info) as content:
        version = npy.read_magic(content)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"array {info.filename} is of another version")
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(content)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError(f"array {info.filename} is not {shape} plain numbers")


def _member(file: zipfile.ZipFile, name: str) -> bytes:
    if file.getinfo(name).file_size > _LARGEST:
        raise ValueError(f"{name} is too large")
    return file.read(name)


class _Reader:
    """Arrays by name, checked to be finite numbers of the number of dimensions asked for."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.arrays = arrays

    def floats(self, name: str, dimensions: int = 1) -> NDArray[np.float64]:
        """The array of that name. Raises ValueError if not finite float64 of that many dimensions."""
        import numpy as np

        array = self.arrays[name]
        if array.ndim != dimensions or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(f"array {name} is not {dimensions}-dimensional finite float64")
        return array

    def integers(self, name: str, below: int) -> NDArray[np.int64]:
        """The array of that name. Raises ValueError where it is not int64 from −1 to less than ``below``."""
        import numpy as np

        array = self.arrays[name]
        if (
            array.ndim != 1
            or array.dtype != np.int64
            or (array.size and not -1 <= array.min() <= array.max() < below)
        ):
            raise ValueError(f"array {name} is not whole numbers below {below}")
        return array


def _number(value: float) -> float | str:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else repr(value)


def _of_number(value: object) -> float:
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        raise ValueError(f"'{value}' is not a number")
    return float(cast("float", value))


def _predictor_tree(predictor: Predictor, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    families = {
        quantity: {
            name: _family_tree(f"{quantity}/{name}", family, arrays) for name, family in models.items()
        }
        for quantity, models in predictor.families.items()
    }
    for quantity, least in predictor.least.items():
        arrays[f"{quantity}/least"] = least
    arrays["overhead"] = predictor.overhead.costs
    return {
        "format": "joulemeter predictor",
        "schema": SCHEMA,
        "device": predictor.device,
        "backend": predictor.backend,
        "origin": predictor.origin,
        "families": families,
        "resolution": dict(predictor.resolution),
        "overhead_spread": _number(predictor.overhead.spread),
        "card": {name: accuracy.to_json() for name, accuracy in predictor.card.items()},
        "facts": dict(predictor.facts),
    }


def _predictor(tree: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Predictor:
    from joulemeter.accuracy import Accuracy
    from joulemeter.models.overhead import Overhead
    from joulemeter.models.predictor import Predictor, Quantity

    reader = _Reader(arrays)
    quantities: tuple[Quantity, ...] = ("energy_j", "time_s")
    present = [quantity for quantity in quantities if quantity in tree["families"]]
    if "energy_j" not in present:
        raise ValueError("it prices no energy")
    return Predictor(
        device=str(tree["device"]),
        backend=str(tree["backend"]),
        origin=str(tree["origin"]),
        families={
            q: {str(n): _family(f"{q}/{n}", t, reader) for n, t in tree["families"][q].items()}
            for q in present
        },
        least={q: reader.floats(f"{q}/least") for q in present},
        resolution={q: float(tree["resolution"][q]) for q in present},
        overhead=Overhead(reader.floats("overhead"), _of_number(tree["overhead_spread"])),
        card={str(name): Accuracy.from_json(card) for name, card in tree["card"].items()},
        facts={str(k): v for k, v in tree["facts"].items() if isinstance(v, str | int | float)},
    )


def _family_tree(name: str, family: Family, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    regression = family.regression
    arrays[f"{name}/low"], arrays[f"{name}/high"] = regression.low, regression.high
    members = [_member_tree(f"{name}/{i}", m, arrays) for i, m in enumerate(regression.members)]
    return {"factor": _number(family.factor), "members": members, "domain": list(regression.columns)}


def _family(name: str, tree: Mapping[str, Any], reader: _Reader) -> Family:
    from joulemeter.models.predictor import Family
    from joulemeter.models.regression import Regression

    members = tuple(_member_of(f"{name}/{i}", m, reader) for i, m in enumerate(tree["members"]))
    domain = tuple(str(column) for column in tree["domain"])
    low, high = reader.floats(f"{name}/low"), reader.floats(f"{name}/high")
    if not members or len(low) != len(domain) or len(low) != len(high):
        raise ValueError(f"{name} has no members, or a domain of other features")
    return Family(Regression(members, domain, low, high), _of_number(tree["factor"]))


def _member_tree(name: str, member: Member, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    from joulemeter.models.gaussian import Process

    arrays[f"{name}/costs"] = member.costs
    tree = {"recipe": member.recipe, "columns": list(member.columns), "deviation": member.deviation}
    if isinstance(member.regressor, Process):
        return tree | {"process": _process_tree(name, member.regressor, arrays)}
    return tree | {"trees": _trees_tree(name, member.regressor, arrays)}


def _member_of(name: str, tree: Mapping[str, Any], reader: _Reader) -> Member:
    from joulemeter.models import features
    from joulemeter.models.regression import Member

    columns = tuple(str(column) for column in tree["columns"])
    costs = reader.floats(f"{name}/costs")
    if len(costs) != len(features.TERMS) or (costs < 0).any():
        raise ValueError(f"{name} has costs of other terms, or below zero")
    if "process" in tree:
        regressor: Process | Trees = _process(name, tree["process"], len(columns), reader)
    else:
        regressor = _trees(name, tree["trees"], len(columns), reader)
    return Member(str(tree["recipe"]), columns, costs, regressor, float(tree["deviation"]))


def _process_tree(name: str, process: Process, arrays: dict[str, NDArray[Any]]) -> dict[str, float]:
    arrays[f"{name}/hyper"] = process.hyper.vector()
    for part in ("centre", "spread", "inputs", "target", "noise", "rows"):
        arrays[f"{name}/{part}"] = getattr(process, part)
    return {"offset": process.offset, "unit": process.unit}


def _process(name: str, tree: Mapping[str, Any], width: int, reader: _Reader) -> Process:
    from joulemeter.models.gaussian import Hyperparameters, Process

    inputs, target = reader.floats(f"{name}/inputs", 2), reader.floats(f"{name}/target")
    hyper, centre, spread = (reader.floats(f"{name}/{part}") for part in ("hyper", "centre", "spread"))
    noise, rows = reader.floats(f"{name}/noise"), reader.integers(f"{name}/rows", 2**31)
    widths = {inputs.shape[1], len(centre), len(spread), len(hyper) - 3, width}
    if (
        len(widths) != 1
        or len({len(inputs), len(target), len(noise), len(rows)}) != 1
        or not (spread > 0).all()
    ):
        raise ValueError(f"{name}: the arrays do not belong together")
    return Process(
        Hyperparameters.of(hyper), centre, spread, float(tree["offset"]), float(tree["unit"]),
        inputs, target, noise, rows,
    )  # fmt: skip


def _trees_tree(name: str, trees: Trees, arrays: dict[str, NDArray[Any]]) -> dict[str, float]:
    for part in ("roots", "feature", "threshold", "left", "right", "value"):
        arrays[f"{name}/{part}"] = getattr(trees, part)
    return {"base": trees.base, "scale": trees.scale}


def _trees(name: str, tree: Mapping[str, Any], width: int, reader: _Reader) -> Trees:
    from joulemeter.models.trees import Trees

    threshold, value = reader.floats(f"{name}/threshold"), reader.floats(f"{name}/value")
    nodes = len(threshold)
    roots, left, right = (reader.integers(f"{name}/{part}", nodes) for part in ("roots", "left", "right"))
    feature = reader.integers(f"{name}/feature", width)
    if len({nodes, len(value), len(left), len(right), len(feature)}) != 1:
        raise ValueError(f"{name}: the arrays do not belong together")
    return Trees(float(tree["base"]), float(tree["scale"]), roots, feature, threshold, left, right, value)
