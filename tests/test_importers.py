"""Published layouts, read as what they say: units, names, work, and what had to be left out."""

import csv
import gzip
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from joulemeter import dataset_import, importers
from joulemeter.errors import DatasetError
from joulemeter.importers import deepen_kernels

DATA = Path(__file__).parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published measurements are not here")

TABLE = """id,kernel,HW,CIN,COUT,KERNEL_SIZE,STRIDES,POOL_STRIDES,CIN1,CIN2,CIN3,CIN4,shapes,energy_mJ,latency_ms,power_mW
A,conv-bn-relu,28.0,32.0,64.0,3.0,2.0,,,,,,,2.5,1.25,2000
B,bnrelu,14.0,16.0,,,,,,,,,"[[14, 14, 16]]",0.01,0.005,2000
C,concat,7.0,,,,,,41.0,12.0,0.0,0.0,"[[7, 7, 41], [7, 7, 12]]",0.005,0.006,800
D,fc,,512.0,1000.0,,,,,,,,"[[512]]",0.432,0.2,2162
E,relu,7.0,10.0,,,,,,,,,"[[7, 7, 10]]",,0.005,2000
F,relu,7.0,10.0,,,,,,,,,"[[7, 7, 10]]",0,0.005,2000
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "kernels.csv"
    path.write_text(TABLE)
    return path


def test_millijoules_become_joules_and_work_follows_from_the_configuration(table: Path) -> None:
    conv, bn_relu, concat, fc = importers.read(table).records
    assert (conv.energy_j, conv.time_s, conv.power_w) == (2.5e-3, 1.25e-3, 2.0)
    # 14 × 14 results of 64 channels, 32 × 9 MACs each, two FLOPs a MAC.
    assert conv.flops == 2 * 14 * 14 * 64 * 32 * 9
    assert conv.parameters == 64 * 32 * 9
    assert (bn_relu.family, bn_relu.name) == ("bn-relu", "bnrelu")
    assert concat.read_bytes == concat.write_bytes == 4 * 7 * 7 * 53
    assert fc.flops == 2 * 512 * 1000


def test_rows_that_say_no_energy_are_left_out_and_counted(table: Path) -> None:
    assert importers.read(table).left_out == ("2 row(s) of relu: no energy above zero",)


def test_json_of_families_and_ids_is_the_same_as_the_table(tmp_path: Path, table: Path) -> None:
    path = tmp_path / "kernels.json"
    config = {"HW": 28, "CIN": 32, "COUT": 64, "KERNEL_SIZE": 3, "STRIDES": 2}
    path.write_text(json.dumps({"conv-bn-relu": {"A": {
        "config": config, "energy": "2.5 +- 0.1", "latency": "1.25", "power": "2000"}}}))  # fmt: skip
    (read,) = importers.read(path).records
    expected = importers.read(table).records[0]
    assert (read.kernel.key, read.energy_j, read.flops) == (
        expected.kernel.key,
        expected.energy_j,
        expected.flops,
    )


def test_a_table_without_families_is_of_convolutions(tmp_path: Path) -> None:
    path = tmp_path / "conv_gpu.csv"
    path.write_text("id,HW,CIN,COUT,KERNEL_SIZE,STRIDES,energy_mJ\nA,14,528,256,1,1,0.91\n")
    (record,) = importers.read(path).records
    assert record.family == "conv-bn-relu"
    assert math.isnan(record.time_s)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "PAR1", "{}"])
def test_a_layout_nobody_knows_is_a_clear_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(DatasetError, match="known layouts"):
        dataset_import.load(path)


def test_a_torn_file_is_a_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"conv": {"A": {"energy": 1')
    with pytest.raises(DatasetError, match="JSON"):
        dataset_import.load(path)
    folder = tmp_path / "irene"
    folder.mkdir()
    (folder / "device_2_ml1.csv.gz").write_bytes(gzip.compress(b"batch_size\n8\n")[:-5])
    with pytest.raises(DatasetError, match="device_2_ml1"):
        dataset_import.load(folder)


IRENE = "batch_size,seq_len,flops,mem_bytes,cpu,times_mean,energy_mean,level_name,model_name\n"


def test_irene_levels_have_their_device_units_and_places(tmp_path: Path) -> None:
    (tmp_path / "device_2_ml1.csv").write_text(
        IRENE + "8,32,12.5,3,8.5,2e-5,0.005,encoder.layer.0:Linear,net\n"
    )
    (tmp_path / "device_2_model.csv.gz").write_bytes(
        gzip.compress((IRENE + "8,32,100,30,8.5,0.01,4.0,net,net\n8,64,200,60,8.5,0.02,,net,net\n").encode())
    )
    read = importers.read(tmp_path)
    kernel, network = read.records
    assert (kernel.device, kernel.family, kernel.path, kernel.network) == (
        "device_2",
        "Linear",
        "encoder.layer.0",
        "net",
    )
    assert (kernel.flops, kernel.read_bytes) == (12.5e6, 3 * 2**20)
    assert kernel.power_w == pytest.approx(250.0)
    assert (network.level, network.family, network.energy_j) == ("model", "network", 4.0)
    assert read.left_out == ("1 row(s) of device_2_model.csv.gz without energy",)


def phone_log(folder: Path, lag_s: float) -> Path:
    """A log as a phone gives it: 0.25 W idle, 2 W in a warm-up block, 1.25 W in 40 timed inferences of 10 ms; stamps in
    microseconds under `Time(ms)`, in bursts of 50 samples, a trailing comma, and a clock ahead by ``lag_s``."""
    t = np.arange(0, 2.0, 2e-4)
    busy = t - 0.8 - lag_s
    power = np.where((busy >= 0) & (busy < 0.2), 2.0, np.where((busy >= 0.2) & (busy < 0.6), 1.25, 0.25))
    stamps = (1_700_000_000 + np.floor(t / 0.01) * 0.01) * 1e6 + np.arange(len(t)) % 50
    log = folder / "phone_power.csv"
    rows = (f"{int(s)},{p / 4 * 1e3},4.0," for s, p in zip(stamps, power, strict=True))
    log.write_text("Time(ms),Main(mA),Main Voltage(V),\n" + "\n".join(rows) + "\n")
    with (folder / "phone_inference.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["inference_index", "start_us", "end_us", "duration_us"])
        for first, count in ((0.8, 20), (1.0, 40)):
            for i in range(count):
                start = int((1_700_000_000 + first + 0.01 * i) * 1e6)
                writer.writerow([i, start, start + 10_000, 10_000])
    return log


@pytest.mark.parametrize("lag_s", [0.0, 0.25])
def test_a_phone_log_is_mended_and_says_so(tmp_path: Path, lag_s: float) -> None:
    read = importers.read(phone_log(tmp_path, lag_s))
    assert len(read.records) == 40
    gross, net = (np.array([getattr(r, name) for r in read.records]) for name in ("energy_j", "net_energy_j"))
    assert gross.mean() == pytest.approx(12.5e-3, rel=0.03)
    assert net.mean() == pytest.approx(10.0e-3, rel=0.04)
    said = " ".join(read.notes)
    for word in ("trailing comma", "holds µs, not ms", "bursts", "warm-up"):
        assert word in said
    lag = re.search(r"runs (-?\d+) ms after", said)
    assert lag is not None
    assert abs(int(lag[1]) - lag_s * 1e3) <= 10


@needs_data
def test_the_published_files_give_the_published_figures() -> None:
    cpu = dataset_import.load(DATA / "deepen2023" / "kernels_cpu.csv")
    assert {"conv-bn-relu", "bnrelu", "se"} <= {r.name for r in cpu.records}
    assert all(r.flops >= 0 and r.read_bytes > 0 for r in cpu.records)
    trace = importers.read(DATA / "traces" / "phone_mobilenetv2_power.csv.gz")
    energy = np.mean([r.energy_j for r in trace.records])
    net = np.mean([r.net_energy_j for r in trace.records])
    assert energy == pytest.approx(13.6e-3, rel=0.03)
    assert net == pytest.approx(10.6e-3, rel=0.03)


def test_published_family_names_are_known_words() -> None:
    from joulemeter import kernels

    assert set(deepen_kernels.FAMILIES.values()) <= set(kernels.families())
