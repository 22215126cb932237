"""Energy models of devices: fitted, stored as JSON, asked, and tried on runs that they never saw."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from joulemeter.device import MemoryLevel
from joulemeter.energy_runs import Levels
from joulemeter.errors import PredictorError
from joulemeter.models.hierarchy import energy
from joulemeter.models.hierarchy.effects import Effects
from joulemeter.models.hierarchy.energy import Base, Choices, EnergyModel
from joulemeter.models.hierarchy.jackknife import Jackknife
from joulemeter.models.hierarchy.physics import Physics
from joulemeter.models.hierarchy.terms import terms
from joulemeter.models.hierarchy.training import Runs, Training
from joulemeter.models.threads import one_thread

SCHEMA = 2
KIND = "memory-hierarchy energy model"
BOOTSTRAP = 100
_FIT = "joulemeter model fit DATASET -o MODEL"

Models = Mapping[str, EnergyModel]


@dataclass(frozen=True)
class Fitted:
    """Models by device, the ``origin`` of the energies they learned from, and what was left out of those."""

    models: dict[str, EnergyModel]
    origin: str = "measured"
    left_out: tuple[str, ...] = ()

    def of(self, device: str | None) -> EnergyModel:
        """The model of ``device``, or the only one; raises PredictorError where there is none."""
        if device is None and len(self.models) == 1:
            return next(iter(self.models.values()))
        if device is None or device not in self.models:
            asked = "no device is named" if device is None else f"no model of the device '{device}'"
            raise PredictorError(f"{asked}", f"--device, one of: {', '.join(self.models)}")
        return self.models[device]


def fit(runs: Runs, levels: Levels, *, bootstrap: int = BOOTSTRAP) -> Fitted:
    """A model of every device in ``runs``; costs get intervals from ``bootstrap`` resamplings (0: none)."""
    with one_thread():
        models = {
            device: energy.fit(runs.of_device(device), levels[device], bootstrap=bootstrap)
            for device in runs.devices
        }
    return Fitted(models, runs.origin, runs.left_out)


def evaluate(fitted: Fitted, runs: Runs) -> dict[str, Any]:
    """How far predictions lie from ``runs``: fractions by device, and what could not be tried.

    ``mape`` is the mean of |predicted/true − 1|, ``median_ape`` its median, ``coverage_90`` the share of runs
    within their 90 % interval. Raises PredictorError where no device is known to both.
    """
    found = {
        device: _evaluated(fitted.models[device], runs.of_device(device))
        for device in runs.devices
        if device in fitted.models
    }
    if not found:
        raise PredictorError(
            f"the model knows {', '.join(fitted.models)}, the runs are on {', '.join(runs.devices)}",
            "--fit and --test with runs of the same device",
        )
    strange = [device for device in runs.devices if device not in found]
    left_out = [
        f"{int((runs.device == device).sum())} runs on {device}: it has no model" for device in strange
    ]
    return {"devices": found, "left_out": [*fitted.left_out, *runs.left_out, *left_out]}


def _evaluated(model: EnergyModel, runs: Runs) -> dict[str, float | int]:
    predicted, low, high = (values[runs.which] for values in model.predict(runs.trainings))
    error = np.abs(predicted / runs.energy_j - 1)
    inside = (low <= runs.energy_j) & (runs.energy_j <= high)
    return {
        "n": len(runs),
        "mape": float(error.mean()),
        "median_ape": float(np.median(error)),
        "coverage_90": float(inside.mean()),
    }


def breakdown(model: EnergyModel, training: Training) -> dict[str, float]:
    """Joules of a training by term of the physics, greatest first; terms that cost nothing are left out."""
    from joulemeter.models.hierarchy.terms import design

    joules = design([training], model.levels)[0] * model.base.joules.costs
    named = {term.name: float(value) for term, value in zip(terms(model.levels), joules, strict=True)}
    return dict(sorted(((n, v) for n, v in named.items() if v > 0), key=lambda item: -item[1]))


def describe(model: EnergyModel) -> dict[str, Any]:
    """What a model is: its choices, validated errors, and each cost with its unit and 90 % interval."""
    physics = model.base.joules
    costs = [
        {"term": term.name, "joules_per": term.unit, "cost": cost, "low": low, "high": high}
        for term, cost, low, high in zip(
            terms(model.levels),
            *(a.tolist() for a in (physics.costs, physics.low, physics.high)),
            strict=True,
        )
    ]
    return {
        "device": model.device,
        "runs": model.runs,
        "levels": {level.name: level.size_bytes for level in model.levels},
        "made_of": model.choices.words,
        "validated": model.validated,
        "interval_90": [math.exp(model.low), math.exp(model.high)],
        "costs": costs,
    }


def save(fitted: Fitted, path: Path) -> None:
    """Writes the models as one JSON object; the file appears whole or not at all."""
    data = {
        "schema": SCHEMA,
        "kind": KIND,
        "origin": fitted.origin,
        "left_out": list(fitted.left_out),
        "devices": {name: _to_json(model) for name, model in fitted.models.items()},
    }
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(json.dumps(data, indent=1))
        partial.replace(path)
    except OSError as error:
        raise PredictorError(
            f"{path}: cannot be written ({error.strerror})", "-o with a writable place"
        ) from error


def load(path: Path) -> Fitted:
    """The models in ``path``. Raises PredictorError where it is not such a file, or newer."""
    try:
        data = json.loads(path.read_text())
        if data.get("kind") != KIND:
            raise PredictorError(f"{path}: is not a {KIND}", _FIT)
        if data["schema"] > SCHEMA:
            fact = f"{path}: has schema {data['schema']}, this reads up to {SCHEMA}"
            raise PredictorError(fact, "pip install --upgrade joulemeter")
        if data["schema"] < SCHEMA:
            raise PredictorError(f"{path}: is of an older joulemeter", _FIT)
        models = {name: _from_json(each) for name, each in data["devices"].items()}
        return Fitted(models, data["origin"], tuple(data["left_out"]))
    except FileNotFoundError:
        raise PredictorError(f"{path}: is not there", _FIT) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PredictorError(f"{path}: cannot be read as a {KIND} ({error})", _FIT) from error


def _to_json(model: EnergyModel) -> dict[str, Any]:
    base = model.base
    return {
        "device": model.device,
        "levels": [[level.name, _finite(level.size_bytes)] for level in model.levels],
        "joules": _physics_to_json(base.joules),
        "seconds": None if base.seconds is None else _physics_to_json(base.seconds),
        "watts": None if base.watts is None else asdict(base.watts),
        "correction": None if model.correction is None else asdict(model.correction),
        "through_time": model.choices.through_time,
        "effects": list(model.choices.correction),
        "shift": model.shift,
        "low": model.low,
        "high": model.high,
        "scatter": model.scatter,
        "apart": [costs.tolist() for costs in model.apart.costs],
        "runs": model.runs,
        "validated": model.validated,
    }


def _from_json(data: Mapping[str, Any]) -> EnergyModel:
    seconds, watts, correction = data["seconds"], data["watts"], data["correction"]
    return EnergyModel(
        device=data["device"],
        levels=tuple(MemoryLevel(name, math.inf if size is None else size) for name, size in data["levels"]),
        base=Base(
            _physics_from_json(data["joules"]),
            None if seconds is None else _physics_from_json(seconds),
            None if watts is None else Effects(**watts),
        ),
        correction=None if correction is None else Effects(**correction),
        choices=Choices(data["through_time"], tuple(data["effects"])),
        shift=data["shift"],
        low=data["low"],
        high=data["high"],
        scatter=data["scatter"],
        apart=Jackknife(tuple(np.array(costs, dtype=float) for costs in data["apart"])),
        runs=data["runs"],
        validated=data["validated"],
    )


def _physics_to_json(physics: Physics) -> list[list[float | None]]:
    return [[_finite(v) for v in values.tolist()] for values in (physics.costs, physics.low, physics.high)]


def _physics_from_json(data: Sequence[Iterable[float | None]]) -> Physics:
    columns = [np.array([math.nan if v is None else v for v in values], dtype=float) for values in data]
    return Physics(*columns)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
