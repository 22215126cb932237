"""Lightning's real Trainer on tiny data, metered by a simulated machine of 50 W."""

import csv
import importlib.util
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

import joulemeter
from phases_seen import durations_s, phases_seen

if importlib.util.find_spec("torchvision") is not None:
    # Its operators are built for one torch alone; with another, Lightning could not import it.
    from joulemeter.networks.vision import torchvision

    torchvision()
lightning = pytest.importorskip("lightning.pytorch")
EPOCHS, BATCHES = 3, 4
WATTS = "simulated:load=constant,idle=50,busy=50,period=1ms"


class Line(lightning.LightningModule):
    """y = a x + b, with a validation and a test."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(x), y)

    def validation_step(self, batch, _):
        self.log("val_loss", self.training_step(batch, 0))

    def test_step(self, batch, _):  # noqa: PT019 - a Lightning hook, not a test
        self.log("test_loss", self.training_step(batch, 0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader() -> torch.utils.data.DataLoader:
    x = torch.linspace(0, 1, 8 * BATCHES).unsqueeze(1)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, 2 * x), batch_size=8)


def trainer(folder: Path, callback: object, **options: object) -> object:
    logger = lightning.loggers.CSVLogger(folder)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1} | options
    return lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=logger,
        callbacks=[callback],
        enable_checkpointing=False,
        **options,
    )


@pytest.fixture(autouse=True)
def _their_warnings():
    """What Lightning warns of (few workers, …) is not ours to judge."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def seen():
    with phases_seen() as found:
        yield found


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, seen):
    from joulemeter.integrations.lightning import EnergyCallback

    folder = tmp_path_factory.mktemp("lightning")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with joulemeter.Meter(sources=[WATTS]) as meter:
            made = trainer(folder, EnergyCallback(meter))
            made.fit(Line(), loader(), loader())
            made.test(made.lightning_module, loader(), verbose=False)
    return meter, Path(made.logger.log_dir)


def logged(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_each_epoch_and_validation_has_its_energy_in_the_log(fitted) -> None:
    meter, folder = fitted
    epochs, validations = logged(folder, "energy_j/epoch"), logged(folder, "energy_j/validation")
    assert len(epochs) == len(validations) == EPOCHS
    assert all(0 < inner < outer for inner, outer in zip(validations, epochs, strict=True))
    assert sum(epochs) < meter.energy_j
    assert len(logged(folder, "energy_j/test")) == 1


def test_the_energy_of_an_epoch_is_its_power_times_its_time(fitted, seen) -> None:
    meter, folder = fitted
    took_s = durations_s(seen, "epoch", meter.run)
    low, high = logged(folder, "energy_low_j/epoch"), logged(folder, "energy_high_j/epoch")
    assert len(took_s) == EPOCHS
    assert all(a <= 50 * t <= b for a, t, b in zip(low, took_s, high, strict=True))


def test_the_energy_of_a_step_is_the_epochs_share_without_its_validation(fitted) -> None:
    _, folder = fitted
    epochs, inner = logged(folder, "energy_j/epoch"), logged(folder, "energy_j/validation")
    expected = [(e - v) / BATCHES for e, v in zip(epochs, inner, strict=True)]
    assert logged(folder, "energy_j/step") == pytest.approx(expected)


def test_the_origin_goes_with_the_energy(fitted) -> None:
    _, folder = fitted
    assert "energy_origin: simulated" in (folder / "hparams.yaml").read_text()


def test_phases_are_spans_that_nest(fitted) -> None:
    meter, _ = fitted
    spans, names = meter.run.spans, {site.id: site.name for site in meter.run.sites}
    count = Counter(names[site] for site in spans.site.tolist())
    # The sanity check validates once more.
    assert (count["epoch"], count["step"], count["validation"], count["test"]) == (3, 12, 4, 1)
    inside = {
        names[spans.site[p]] for s, p in zip(spans.site, spans.parent, strict=True) if names[s] == "step"
    }
    assert inside == {"epoch"}


def test_without_a_meter_nothing_is_logged_and_the_training_is_the_same(tmp_path) -> None:
    from joulemeter.integrations.lightning import EnergyCallback

    made = trainer(tmp_path, EnergyCallback(), num_sanity_val_steps=0)
    made.fit(Line(), loader(), loader())
    header = (Path(made.logger.log_dir) / "metrics.csv").read_text().splitlines()[0]
    assert "energy" not in header


def test_an_exception_in_the_training_leaves_no_phase_open(tmp_path) -> None:
    from joulemeter.integrations.lightning import EnergyCallback

    class Broken(Line):
        def training_step(self, batch, index):
            raise ZeroDivisionError

    callback = EnergyCallback()
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, callback, num_sanity_val_steps=0).fit(Broken(), loader())
    assert not callback._phases._open
