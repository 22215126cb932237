"""Sweeps: each run recorded once, whatever kills them; failures are records; the data set feeds the energy model."""

import json
import math
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from joulemeter import dataset, energy_model, energy_runs, plan, qc, sweep, topology, training_data, trial
from joulemeter.cli.sweep import command
from joulemeter.device import MemoryLevel
from joulemeter.errors import DatasetError
from joulemeter.plan import Configuration

TOML = 'name = "tiny"\ndatasets = ["sklearn_digits"]\ndepths = [3]\nsizes = [16384]\nepochs = [2]\n'
LEVELS = {"cpu": (MemoryLevel("L2", 1e6), MemoryLevel("DRAM", math.inf))}
SMALL = plan.make(
    {
        "datasets": ["banana", "wine_quality_white"],
        "shapes": ["rectangle", "exponential"],
        "depths": [3, 4],
        "sizes": [512, 2048, 8192],
        "repetitions": 2,
    }
)


def said(job: trial.Job) -> dict:
    """What a run's process would say on a machine that draws 50 W, 20 W of it idle."""
    configuration = job.configuration
    facts = training_data.facts(configuration.dataset)
    solved = topology.solve(
        configuration.shape,
        depth=configuration.depth,
        size=configuration.size,
        inputs=facts.inputs,
        outputs=facts.outputs,
    )
    time_s = sweep.seconds(configuration) * random.Random(configuration.key).lognormvariate(0, 0.03)
    return {
        "status": "done", "inputs": facts.inputs, "outputs": facts.outputs, "rows": facts.rows,
        "data": "stand-in", "widths": solved.widths, "parameters": solved.parameters, "time_s": time_s,
        "energy_j": 50 * time_s, "low_j": 45 * time_s, "high_j": 55 * time_s, "idle_w": 20.0,
        "origin": "simulated", "source": "simulated", "test_loss": 0.5, "threads": 2,
    }  # fmt: skip


def swept(folder: Path, monkeypatch, asked: plan.Plan = SMALL) -> sweep.Tally:
    monkeypatch.setattr(sweep, "outcome", said)
    return sweep.sweep(folder, asked, tables=folder)


def keys(folder: Path) -> list[str]:
    return sorted(str(record.facts["key"]) for record in dataset.read(folder).records)


def test_a_real_run_is_metered_whole_by_epoch_and_by_phase(tmp_path) -> None:
    (tmp_path / "tiny.toml").write_text(TOML + 'devices = ["cpu", "cuda:7"]\nthreads = [1]\n')
    arguments = [str(tmp_path / "tiny.toml"), "-o", str(tmp_path / "data"), "--offline", "--json"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["done"] == 1
    assert json.loads(result.stdout)["failed"] == 1
    done, failed = sorted(dataset.read(tmp_path / "data").records, key=lambda r: r.device)
    assert done.level == "run"
    assert done.origin in ("measured", "estimated")
    assert done.energy_low_j <= done.energy_j <= done.energy_high_j
    assert done.energy_j > 0
    assert len(done.facts["epochs_j"]) == 2
    assert sum(done.facts["epochs_j"]) == pytest.approx(done.energy_j, rel=0.01)
    assert set(done.facts["phases_j"]) == set(trial.PHASES)
    assert done.facts["phases_j"]["forward"]["calls"] == 2 * math.ceil(1437 / 256)
    assert done.facts["threads"] == 1
    assert done.parameters == topology.parameters(done.facts["inputs"], done.facts["widths"])
    assert failed.facts["status"] == "failed"
    assert "cuda:7" in failed.facts["error"]
    assert math.isnan(failed.energy_j)
    again = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert json.loads(again.stdout)["before"] == 2


def test_a_crash_is_one_failed_record(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sweep.sys, "executable", "/bin/false")
    job = trial.Job(SMALL.configurations[0], tmp_path)
    record = sweep.record_one(tmp_path / "data", job)
    assert record.facts["status"] == "failed"
    assert "status 1" in record.facts["error"]
    assert len(dataset.read(tmp_path / "data")) == 1


def test_sweep_then_qc_then_fit(tmp_path, monkeypatch) -> None:
    """The data set that a sweep writes is what the energy model reads, as it is and after qc."""
    assert swept(tmp_path / "data", monkeypatch).done == len(SMALL.configurations)
    report = qc.check(dataset.table(tmp_path / "data"), qc.Rules())
    dataset.write_table(tmp_path / "clean", "clean", report.kept)
    table = energy_runs.read(tmp_path / "clean")
    assert len(table.runs) == len(SMALL.configurations)
    assert table.runs.left_out == (
        f"the losses of {len(table.runs)} runs on stand-in data: they mean nothing",
    )
    assert not np.isfinite(table.runs.loss).any()
    assert table.runs.origin == "simulated"
    fitted = energy_model.fit(table.runs, LEVELS, bootstrap=0)
    errors = energy_model.evaluate(fitted, table.runs)["devices"]["cpu"]
    assert errors["mape"] < 0.2


def test_a_sweep_goes_on_where_it_was_and_records_nothing_twice(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "data"
    swept(folder, monkeypatch)
    part = next(folder.glob(f"part-{SMALL.configurations[3].key}*"))
    part.unlink()
    tally = swept(folder, monkeypatch)
    assert (tally.done, tally.before) == (1, len(SMALL.configurations) - 1)
    assert keys(folder) == sorted(each.key for each in SMALL.configurations)
    dataset.compact(folder)
    assert swept(folder, monkeypatch).done == 0


def test_another_plan_or_a_second_sweep_is_refused(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "data"
    swept(folder, monkeypatch)
    other = plan.make({"datasets": ["adult"], "depths": [3], "sizes": [4096]})
    with pytest.raises(DatasetError, match="of the plan"):
        swept(folder, monkeypatch, other)
    with pytest.raises(DatasetError, match="already"):
        sweep.sweep(folder, SMALL, tables=folder, resume=False)
    with sweep.opened(folder, SMALL), pytest.raises(DatasetError, match="another sweep"):
        swept(folder, monkeypatch)


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_sweep
from joulemeter import sweep
def slow(job):
    time.sleep(0.01)
    return test_sweep.said(job)
sweep.outcome = slow
print("go", flush=True)
sweep.sweep(Path({folder!r}), test_sweep.SMALL, tables=Path({folder!r}))
"""


def test_killed_at_random_instants_loses_only_the_run_in_progress(tmp_path) -> None:
    folder = tmp_path / "data"
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    chance, known = random.Random(5), set()
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        now = set(keys(folder)) if dataset.is_dataset(folder) else set()
        assert known <= now
        assert len(now) == len(keys(folder)) if now else True
        known = now
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert keys(folder) == sorted(each.key for each in SMALL.configurations)


def test_a_run_dies_with_its_sweep() -> None:
    """Nobody would record it, and it would disturb the next."""
    code = (
        "import subprocess, sys, os\n"
        "p = subprocess.Popen([sys.executable, '-m', 'joulemeter.trial'])\n"
        "print(p.pid, flush=True)\nimport time; time.sleep(60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # our end of stdin stays open: the run waits for its job until it is killed
    child = int(parent.stdout.readline())
    until = time.monotonic() + 20
    while b"joulemeter" not in Path(f"/proc/{child}/cmdline").read_bytes() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(1.5)  # so that it has asked to die
    parent.kill()
    parent.wait()
    while _alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    gone = not _alive(child)
    parent.communicate()
    assert gone


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_dry_run_says_runs_time_and_energy_and_writes_nothing(tmp_path) -> None:
    (tmp_path / "tiny.toml").write_text(TOML + "repetitions = 3\n")
    arguments = [str(tmp_path / "tiny.toml"), "-o", str(tmp_path / "data"), "--dry-run"]
    found = json.loads(CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert (found["configurations"], found["runs"]) == (1, 3)
    assert found["time_s"] > 3
    assert found["energy_j"] > 0
    text = CliRunner().invoke(command, arguments, catch_exceptions=False).stdout
    assert "1 configuration, 3 runs to do" in text
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("shape", ["transformer", "cnn"])
def test_sequence_networks_come_near_their_size(shape) -> None:
    from joulemeter import networks_trained

    network = networks_trained.sequence(shape, 3, 50_000, 10)
    assert sum(each.numel() for each in network.parameters()) == pytest.approx(50_000, rel=0.25)


def test_a_residual_network_adds_only_between_equal_hidden_layers() -> None:
    import torch

    from joulemeter import networks_trained

    network = networks_trained.dense(4, [8, 8, 5, 5, 1], residual=True)
    assert network.added == [False, True, False, True]
    assert network(torch.zeros(3, 4)).shape == (3, 1)


def test_records_of_failed_runs_have_no_energy() -> None:
    record = sweep.record_of(Configuration("banana", "rectangle", 3, 512), {"status": "failed", "error": "x"})
    assert math.isnan(record.energy_j)
    assert math.isnan(record.time_s)
    assert record.facts["rows"] == 5300


def test_ctrl_c_ends_with_a_line_and_status_130_and_the_bar_counts_runs_from_the_start(tmp_path) -> None:
    import os
    import pty

    (tmp_path / "tiny.toml").write_text(TOML.replace("[2]", "[100000]"))
    words = [
        "-m",
        "joulemeter",
        "sweep",
        str(tmp_path / "tiny.toml"),
        "-o",
        str(tmp_path / "data"),
        "--offline",
    ]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", COLUMNS="120")
        os.execv(sys.executable, [sys.executable, *words])
    said = b""
    while b"0 of 1 runs, roughly" not in said:
        said += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    try:
        while more := os.read(terminal, 1024):
            said += more
    except OSError:  # Linux says that the other end is closed
        pass
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    assert b"keeps the runs that are done; the same command goes on" in said.replace(b"\r\n", b" ")
    assert b"Traceback" not in said
    os.close(terminal)
    assert len(dataset.read(tmp_path / "data")) == 0


def test_a_dry_run_refuses_the_data_set_of_another_plan(tmp_path, monkeypatch) -> None:
    swept(tmp_path / "data", monkeypatch)
    (tmp_path / "tiny.toml").write_text(TOML)
    result = CliRunner().invoke(
        command, [str(tmp_path / "tiny.toml"), "-o", str(tmp_path / "data"), "--dry-run"]
    )
    assert isinstance(result.exception, DatasetError)
    assert "another folder, or the plan as it was" in str(result.exception)


def test_a_sweep_without_a_record_yet_makes_no_model_and_says_why(tmp_path) -> None:
    with sweep.opened(tmp_path / "data", SMALL):
        pass
    with pytest.raises(DatasetError, match="holds no runs"):
        energy_runs.read(tmp_path / "data")


def test_attention_is_estimated_with_the_square_of_the_inputs() -> None:
    short, long = (
        sweep.seconds(Configuration(name, "transformer", 3, 16384), flops_per_s=1.0) / rows / inputs
        for name, inputs, rows in (("sklearn_breast_cancer", 30, 569), ("mnist", 784, 70000))
    )
    assert 3 < long / short < 20
