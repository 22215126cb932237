"""Energies in real trackers, out of plain loops and recorded runs: written, and read back from their files."""

import math
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import joulemeter
import trackers
from joulemeter.ledger import UNKNOWN, Energy
from joulemeter.log_entries import entries
from joulemeter.phases import Phase, Phases

pytestmark = pytest.mark.filterwarnings("ignore")
WATTS = "simulated:load=constant,idle=50,busy=50,period=1ms"
KEYS = ("energy_j", "energy_low_j", "energy_high_j")
UNSEEN = Phase("epoch", 0, 1, UNKNOWN, "simulated")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """MLflow and W&B leave folders where they are used; W&B where it was first used, until torn down."""
    monkeypatch.chdir(tmp_path)
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def loop(log: object) -> joulemeter.Meter:
    """Two epochs of some 50 ms, each logged, then a phase nobody saw, then the whole block."""
    with joulemeter.Meter(sources=[WATTS]) as meter:
        phases = Phases(meter)
        for epoch in range(2):
            phases.begin("epoch")
            time.sleep(0.05)
            log(phases.end("epoch"), epoch)
        log(UNSEEN, 2)
        log(meter, 2)
    return meter


def bounded(series: dict[str, list[tuple[int, float]]], name: str) -> list[tuple[int, float]]:
    """The energies of one name, whose ends of intervals are logged at the same steps."""
    value, low, high = (series[f"{key}/{name}"] for key in KEYS)
    assert [step for step, _ in value] == [step for step, _ in low] == [step for step, _ in high]
    for (_, v), (_, a), (_, b) in zip(value, low, high, strict=True):
        assert a <= v <= b
        assert a < b
    return value


def check(series: dict[str, list[tuple[int, float]]]) -> None:
    epochs, whole = bounded(series, "epoch"), bounded(series, "run")
    assert [step for step, _ in epochs] == [0, 1], (
        "the phase that nobody saw is not logged, not as zero either"
    )
    assert all(2.4 < energy < 10 for _, energy in epochs)
    assert [step for step, _ in whole] == [2]
    assert whole[0][1] > sum(energy for _, energy in epochs)


def test_a_plain_loop_in_tensorboard(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    from joulemeter.integrations.tensorboard import log_energy

    with SummaryWriter(tmp_path) as writer:
        loop(lambda what, step: log_energy(what, writer, step))
    series, texts = trackers.tensorboard(tmp_path)
    check(series)
    assert texts == ["simulated"]


def test_a_plain_loop_in_mlflow(tmp_path: Path) -> None:
    import mlflow

    from joulemeter.integrations.mlflow import log_energy

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run():
        loop(lambda what, step: log_energy(what, step=step))
    series, tags = trackers.mlflow(uri)
    check(series)
    assert tags["energy_origin"] == "simulated"


def test_mlflow_without_a_run_is_refused_with_the_remedy() -> None:
    from joulemeter.integrations.mlflow import log_energy

    with pytest.raises(joulemeter.JoulemeterError, match=r"no MLflow run is active.*start_run"):
        log_energy(UNSEEN)


def test_a_plain_loop_in_wandb_offline(tmp_path: Path) -> None:
    import wandb

    from joulemeter.integrations.wandb import log_energy

    run = wandb.init(mode="offline", project="p", dir=tmp_path, settings=wandb.Settings(silent=True))
    loop(lambda what, step: log_energy(what, run, step))
    run.finish()
    rows, config = trackers.wandb(tmp_path)
    series: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for key in row:
            series.setdefault(key, []).append((int(row["_step"]), row[key]))
    check(series)
    assert config["energy_origin"] == "simulated"


def test_a_recorded_run_gives_its_energy_and_that_of_each_named_span(tmp_path: Path) -> None:
    with joulemeter.Meter(sources=[WATTS], folder=tmp_path / "run") as meter:
        phases = Phases()
        for _ in range(3):
            phases.begin("epoch")
            time.sleep(0.03)
            phases.close("epoch")
    found = entries(joulemeter.load(tmp_path / "run"))
    epochs = [entry for entry in found if "energy_j/epoch" in entry.metrics]
    assert [entry.step for entry in epochs] == [0, 1, 2]
    assert {entry.origin for entry in found} == {"simulated"}
    took_s = [
        (end - start) / 1e9
        for site, start, end in zip(
            *(getattr(meter.run.spans, n) for n in ("site", "start_ns", "end_ns")), strict=True
        )
        if meter.run.sites[site].name == "epoch"
    ]
    assert all(
        entry.metrics["energy_low_j/epoch"] <= 50 * seconds <= entry.metrics["energy_high_j/epoch"]
        for entry, seconds in zip(epochs, took_s, strict=True)
    )
    assert sum("energy_j/run" in entry.metrics for entry in found) == 1


def test_a_span_shorter_than_the_meters_period_is_not_logged_alone() -> None:
    slow = "simulated:load=constant,idle=50,busy=50,period=50ms"
    with joulemeter.Meter(sources=[slow]) as meter:
        time.sleep(0.06)
        with meter.span("step"):
            time.sleep(0.001)
        with meter.span("epoch"):
            time.sleep(0.12)
        time.sleep(0.06)
    names = {name for entry in entries(meter.run) for name in entry.metrics}
    assert "energy_j/epoch" in names
    assert "energy_j/step" not in names


def test_steps_are_an_epoch_less_its_validation_with_ends_that_add() -> None:
    epoch = Phase("epoch", 0, 9, Energy(10.0, 9.0, 11.5), "simulated")
    validation = Phase("validation", 3, 6, Energy(4.0, 3.5, 4.5), "simulated")
    assert epoch.without([validation], "step").metrics(2) == {
        "energy_j/step": 3.0,
        "energy_low_j/step": 2.25,
        "energy_high_j/step": 4.0,
    }


def test_steps_of_an_epoch_whose_validation_nobody_saw_are_not_known() -> None:
    epoch = Phase("epoch", 0, 9, Energy(10.0, 9.0, 11.5), "simulated")
    steps = epoch.without([Phase("validation", 3, 6, UNKNOWN, "simulated")], "step")
    assert math.isnan(steps.energy.energy_j)
    assert steps.metrics(2) == {}


# ── the frameworks' own loggers ──────────────────────────────────────────────────────────────────────


def test_lightning_reaches_all_three(tmp_path: Path) -> None:
    from test_integrations_lightning import BATCHES, Line, lightning, loader

    from joulemeter.integrations.lightning import EnergyCallback  # isort: skip - once torchvision is seen to

    loggers = lightning.loggers
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    to = [
        loggers.TensorBoardLogger(tmp_path / "tb"),
        loggers.MLFlowLogger(tracking_uri=uri),
        loggers.WandbLogger(offline=True, save_dir=tmp_path, settings={"silent": True}),
    ]
    with joulemeter.Meter(sources=[WATTS]) as meter:
        made = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=to,
            callbacks=[EnergyCallback(meter)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        made.fit(Line(), loader(), loader())
    to[2].experiment.finish()
    series, _ = trackers.tensorboard(tmp_path / "tb")
    assert [step for step, _ in bounded(series, "epoch")] == [BATCHES, 2 * BATCHES]
    assert len(bounded(series, "validation")) == len(bounded(series, "step")) == 2
    assert "energy_origin: simulated" in next((tmp_path / "tb").rglob("hparams.yaml")).read_text()
    series, facts = trackers.mlflow(uri)
    assert (
        len(bounded(series, "epoch"))
        == len(bounded(series, "validation"))
        == len(bounded(series, "step"))
        == 2
    )
    assert facts["energy_origin"] == "simulated"
    rows, config = trackers.wandb(tmp_path / "wandb")
    assert (
        sum("energy_high_j/epoch" in row for row in rows)
        == sum("energy_high_j/step" in row for row in rows)
        == 2
    )
    assert config["energy_origin"] == "simulated"


def test_hugging_face_reaches_all_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_integrations_transformers import EPOCHS, trainer  # isort: skip
    import mlflow
    import wandb

    from joulemeter.integrations.transformers import EnergyCallback

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    settings = {"MLFLOW_TRACKING_URI": uri, "WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    for name, value in (settings | {"TENSORBOARD_LOGGING_DIR": str(tmp_path / "tb")}).items():
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri(uri)
    made = trainer(tmp_path / "out", eval_strategy="epoch", report_to=["tensorboard", "mlflow", "wandb"])
    with joulemeter.Meter(sources=[WATTS]) as meter:
        made.add_callback(EnergyCallback(made, meter))
        made.train()
    mlflow.end_run()
    wandb.finish()
    series, texts = trackers.tensorboard(tmp_path)
    assert len(bounded({k.removeprefix("train/"): v for k, v in series.items()}, "epoch")) == EPOCHS
    assert texts == ["simulated"]
    series, facts = trackers.mlflow(uri)
    assert (
        len(bounded(series, "epoch"))
        == len(bounded(series, "evaluation"))
        == len(bounded(series, "step"))
        == EPOCHS
    )
    assert facts["energy_origin"] == "simulated"
    rows, config = trackers.wandb(tmp_path / "wandb")
    assert sum("train/energy_high_j/epoch" in row for row in rows) == EPOCHS
    assert config["energy_origin"] == "simulated"


def test_keras_reaches_all_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_integrations_keras import EPOCHS, fit, keras, model  # isort: skip
    import mlflow
    import wandb
    from mlflow.keras import MlflowCallback
    from wandb.integration.keras import WandbMetricsLogger

    from joulemeter.integrations.keras import EnergyCallback

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    run = wandb.init(mode="offline", project="p", dir=tmp_path, settings=wandb.Settings(silent=True))
    with mlflow.start_run() as active, joulemeter.Meter(sources=[WATTS]) as meter, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        energy = EnergyCallback(meter)
        board = keras.callbacks.TensorBoard(tmp_path / "tb")
        fit(model(), energy, board, MlflowCallback(), WandbMetricsLogger())
    assert active is not None
    run.finish()
    series, _ = trackers.tensorboard(tmp_path / "tb")
    assert len(bounded({k.replace("epoch_", "", 1): v for k, v in series.items()}, "epoch")) == EPOCHS
    series, _ = trackers.mlflow(uri)
    assert len(bounded(series, "epoch")) == len(bounded(series, "step")) == EPOCHS
    rows, _ = trackers.wandb(tmp_path / "wandb")
    assert sum("epoch/energy_high_j/epoch" in row for row in rows) == EPOCHS
