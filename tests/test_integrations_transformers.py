"""Hugging Face's real Trainer on tiny data, metered by a simulated machine of 50 W."""

import importlib.util
import warnings
from collections import Counter

import pytest
import torch

import joulemeter
from phases_seen import durations_s, phases_seen

pytest.importorskip("accelerate", reason="transformers.Trainer needs accelerate")
if importlib.util.find_spec("torchvision") is not None:
    # Its operators are built for one torch alone; with another, transformers could not import it.
    from joulemeter.networks.vision import torchvision

    torchvision()
transformers = pytest.importorskip("transformers")
EPOCHS, STEPS = 2, 4
WATTS = "simulated:load=constant,idle=50,busy=50,period=1ms"


class Line(torch.nn.Module):
    """y = a x + b, as the Trainer calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": torch.nn.functional.mse_loss(self.layer(x), labels)}


DATA = [{"x": torch.tensor([i / 32]), "labels": torch.tensor([i / 16])} for i in range(8 * STEPS)]


def trainer(folder: object, **options: object) -> object:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=8,
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        **({"report_to": []} | options),
    )
    made = transformers.Trainer(Line(), arguments, train_dataset=DATA, eval_dataset=DATA[:8])
    made.remove_callback(transformers.PrinterCallback)
    return made


@pytest.fixture(scope="module")
def seen():
    with phases_seen() as found:
        yield found


@pytest.fixture(scope="module")
def trained(tmp_path_factory, seen):
    from joulemeter.integrations.transformers import EnergyCallback

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = trainer(tmp_path_factory.mktemp("trainer"), eval_strategy="epoch")
        with joulemeter.Meter(sources=[WATTS]) as meter:
            made.add_callback(EnergyCallback(made, meter))
            made.train()
    return made, meter


def logged(made: object, name: str) -> list[float]:
    return [entry[name] for entry in made.state.log_history if name in entry]


def test_each_epoch_and_evaluation_has_its_energy_in_the_history(trained) -> None:
    made, meter = trained
    epochs, evaluations = logged(made, "energy_j/epoch"), logged(made, "energy_j/evaluation")
    assert len(epochs) == len(evaluations) == EPOCHS
    assert min(epochs + evaluations) > 0
    assert sum(epochs + evaluations) < meter.energy_j


def test_the_energy_of_a_step_is_the_epochs_share(trained) -> None:
    made, _ = trained
    assert logged(made, "energy_j/step") == pytest.approx([e / STEPS for e in logged(made, "energy_j/epoch")])


def test_the_origin_stands_beside_every_energy(trained) -> None:
    made, _ = trained
    entries = [entry for entry in made.state.log_history if any(key.startswith("energy_j") for key in entry)]
    assert entries
    assert {entry["energy_origin"] for entry in entries} == {"simulated"}


def test_phases_are_spans(trained) -> None:
    _, meter = trained
    names = {site.id: site.name for site in meter.run.sites}
    count = Counter(names[site] for site in meter.run.spans.site.tolist())
    assert (count["epoch"], count["step"], count["evaluation"]) == (EPOCHS, EPOCHS * STEPS, EPOCHS)


def test_the_energy_of_an_epoch_is_its_power_times_its_time(trained, seen) -> None:
    made, meter = trained
    took_s = durations_s(seen, "epoch", meter.run)
    ends = zip(logged(made, "energy_low_j/epoch"), took_s, logged(made, "energy_high_j/epoch"), strict=True)
    assert all(low <= 50 * seconds <= high for low, seconds, high in ends)


def test_without_a_meter_nothing_is_logged(tmp_path) -> None:
    from joulemeter.integrations.transformers import EnergyCallback

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = trainer(tmp_path)
        made.add_callback(EnergyCallback(made))
        made.train()
    assert not any("energy" in key for entry in made.state.log_history for key in entry)
