"""NVIDIA GPUs: NVML's answers and refusals, from stand-ins and from a compiled libnvidia-ml.so.1."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pynvml
import pytest

from joulemeter import timeline
from joulemeter.errors import SourceUnavailable, UsageError
from joulemeter.sources import nvml
from joulemeter.sources.fake_nvml import FakeGpu, FakeNvml, made_of

PASCAL, VOLTA, AMPERE, HOPPER = 4, 5, 7, 9
GA100, GA102 = 0x20B0_10DE, 0x2204_10DE
INSTANT, AVERAGE = pynvml.NVML_FI_DEV_POWER_INSTANT, pynvml.NVML_FI_DEV_POWER_AVERAGE
NO_FIELDS = {f"field {INSTANT}": 3, f"field {AVERAGE}": 3}


class Time:
    def __init__(self):
        self.now = 7_000_000_000

    def __call__(self):
        return self.now


def gpu(power_w=300.0, **figures):
    return FakeGpu(lambda seconds: power_w * seconds, **figures)


def metered(*gpus, wanted=()):
    clock = Time()
    library = FakeNvml(gpus, clock)
    return nvml.Nvml(library, wanted, clock=clock), library, clock


def test_a_gpu_that_counts_its_energy_is_one_counter_of_joules():
    source, _, clock = metered(gpu(), gpu(100.0))
    assert [(rail.name, rail.kind, rail.inside) for rail in source.rails] == [
        ("gpu-0", "counter", None),
        ("gpu-1", "counter", None),
    ]
    first = {reading.rail: reading.value for reading in source.read()}
    clock.now += 2_000_000_000
    second = {reading.rail: reading.value for reading in source.read()}
    assert [second[rail] - first[rail] for rail in (0, 1)] == pytest.approx([600.0, 200.0])


def test_a_counter_gives_a_reading_a_refresh_and_none_between():
    source, _, clock = metered(gpu())
    given = []
    for _ in range(50):
        clock.now += 20_000_000
        given += source.read()
    assert len(given) == 10 + 1
    line = timeline.from_readings(
        source.rails[0], *(np.array(column) for column in list(zip(*given, strict=True))[1:])
    )
    assert line.total_j == pytest.approx(300.0 * (line.t_ns[-1] - line.t_ns[0]) / 1e9, rel=0.03)


def test_a_counter_that_stands_still_is_read_again_after_half_a_second():
    source, _, clock = metered(gpu(0.0))
    assert len(source.read()) == 1
    assert source.read() == []
    clock.now += 500_000_000
    assert len(source.read()) == 1


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"architecture": PASCAL}, [("gpu-0", None, None), ("gpu-0/average", 0, 1_000_000_000)]),
        (
            {"architecture": PASCAL, "errors": {f"field {INSTANT}": 3}},
            [("gpu-0/average", None, 1_000_000_000)],
        ),
        ({"architecture": PASCAL, "errors": NO_FIELDS}, [("gpu-0", None, None)]),
    ],
)
def test_without_a_counter_both_powers_are_read_where_they_exist(figures, expected):
    source, _, clock = metered(gpu(**figures))
    assert [(rail.name, rail.inside, rail.window_ns) for rail in source.rails] == expected
    assert {rail.kind for rail in source.rails} == {"gauge"}
    clock.now += 5_000_000_000
    assert [reading.value for reading in source.read()] == pytest.approx([300.0] * len(expected))


@pytest.mark.parametrize(
    ("architecture", "device", "window_ns"),
    [
        (HOPPER, 0x2330_10DE, 1_000_000_000),
        (AMPERE, GA102, 1_000_000_000),
        (AMPERE, GA100, None),
        (VOLTA, 0x1DB1_10DE, None),
    ],
)
def test_the_averaging_window_of_power_usage_is_the_one_nvidia_documents(architecture, device, window_ns):
    errors = {**NO_FIELDS, "nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NOT_SUPPORTED}
    source, _, _ = metered(gpu(architecture=architecture, pci_device_id=device, errors=errors))
    assert [rail.window_ns for rail in source.rails] == [window_ns]


def test_a_gpu_split_by_mig_is_refused_with_both_remedies():
    with pytest.raises(
        SourceUnavailable, match=r"GPU 1 is split by MIG.*sudo nvidia-smi -i 1 -mig 0, or --source nvml:0,2"
    ):
        metered(gpu(), gpu(split=True), gpu())


def test_the_gpus_beside_a_split_one_can_be_named():
    source, _, _ = metered(gpu(), gpu(split=True), gpu(), wanted=["0", "2"])
    assert [rail.name for rail in source.rails] == ["gpu-0", "gpu-2"]


def test_a_gpu_is_named_by_its_uuid_and_a_slice_is_not_one():
    source, _, _ = metered(gpu(uuid="GPU-aa"), gpu(uuid="GPU-bb"), wanted=["GPU-bb"])
    assert [rail.name for rail in source.rails] == ["gpu-1"]
    with pytest.raises(SourceUnavailable, match="slice of a GPU"):
        metered(gpu(), wanted=["MIG-cc"])
    with pytest.raises(SourceUnavailable, match="there is no GPU '7'"):
        metered(gpu(), wanted=["7"])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "install the NVIDIA driver"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "sudo modprobe nvidia"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "sudo chmod"),
        (pynvml.NVML_ERROR_UNKNOWN, "nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_start_is_a_reason_with_a_remedy(code, words):
    library = FakeNvml([gpu()])
    library.errors["nvmlInit"] = code
    with pytest.raises(SourceUnavailable, match=rf"no NVIDIA driver answers .*Try: .*{words}"):
        nvml.Nvml(library)


def test_missing_permission_is_refused_and_the_driver_let_go():
    library = FakeNvml([gpu(errors={"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVML_ERROR_NO_PERMISSION})])
    with pytest.raises(SourceUnavailable, match="may not be read"):
        nvml.Nvml(library)
    assert library.open == 0


def test_a_machine_without_gpus_is_refused():
    with pytest.raises(SourceUnavailable, match="sees no GPU"):
        metered()


def test_a_gpu_that_meters_nothing_is_refused():
    errors = {**NO_FIELDS, "nvmlDeviceGetTotalEnergyConsumption": 3, "nvmlDeviceGetPowerUsage": 3}
    with pytest.raises(SourceUnavailable, match=r"neither energy nor power\. Try: --source"):
        metered(gpu(errors=errors))


def test_a_gpu_lost_during_the_run_reads_nan_and_the_other_goes_on():
    source, library, clock = metered(gpu(), gpu())
    library.gpus[0].errors["nvmlDeviceGetTotalEnergyConsumption"] = pynvml.NVML_ERROR_GPU_IS_LOST
    clock.now += 1_000_000_000
    values = {reading.rail: reading.value for reading in source.read()}
    assert math.isnan(values[0])
    assert values[1] > 0


def test_a_field_that_fails_once_is_one_gap():
    source, library, clock = metered(gpu(architecture=PASCAL))
    clock.now += 1_000_000_000
    library.gpus[0].errors[f"field {INSTANT}"] = pynvml.NVML_ERROR_UNKNOWN
    assert [math.isnan(reading.value) for reading in source.read()] == [True, False]
    library.gpus[0].errors.clear()
    assert [reading.value for reading in source.read()] == pytest.approx([300.0, 300.0])


def test_the_stand_in_has_only_functions_that_the_real_library_has():
    own = {name for name in vars(FakeNvml) if name.startswith("nvml")}
    assert own
    assert all(hasattr(pynvml, name) for name in own)


def test_a_figure_of_the_stand_in_that_is_none_is_refused():
    with pytest.raises(UsageError, match="'volts=3' is no figure"):
        made_of("volts=3")


LIBRARY = r"""
#include <string.h>
#include <time.h>
typedef struct { unsigned fieldId, scopeId; long long timestamp, latencyUsec; int valueType, nvmlReturn;
                 union { double d; unsigned ui; unsigned long long ull; } value; } field_t;
static char device;
int nvmlInitWithFlags(unsigned f) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "error"; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { *h = &device; return 0; }
int nvmlDeviceGetUUID(void *h, char *out, unsigned n) { strcpy(out, "GPU-compiled"); return 0; }
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) { return 3; }
int nvmlDeviceGetArchitecture(void *h, unsigned *a) { *a = 4; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, unsigned long long *mj) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    *mj = (t.tv_sec * 1000ULL + t.tv_nsec / 1000000) * 250; return ENERGY; }
int nvmlDeviceGetFieldValues(void *h, int n, field_t *v) {
    for (int i = 0; i < n; i++) { v[i].nvmlReturn = 0; v[i].valueType = 1; v[i].value.ui = 250000; } return 0; }
"""

READER = """
import sys, time
from joulemeter.sources import nvml
source = nvml.open("")
first = source.read()
time.sleep(0.3)
second = source.read()
rail = source.rails[0]
energy = (second[0].value - first[0].value) / (second[0].t_ns - first[0].t_ns) * 1e9
print(rail.kind, rail.name, round(energy if rail.kind == "counter" else second[0].value), len(source.rails))
source.close()
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize(("energy", "expected"), [(0, "counter gpu-0 250 1"), (3, "gauge gpu-0 250 2")])
def test_the_real_binding_is_driven_through_a_compiled_library(tmp_path, energy, expected):
    (tmp_path / "nvml.c").write_text(LIBRARY)
    build = [
        "gcc",
        "-shared",
        "-fPIC",
        "-w",
        f"-DENERGY={energy}",
        "-o",
        tmp_path / "libnvidia-ml.so.1",
        tmp_path / "nvml.c",
    ]
    subprocess.run(build, check=True)
    package = Path(nvml.__file__).parents[2]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(package)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        [sys.executable, "-c", READER], env=environment, capture_output=True, text=True, check=True
    )
    kind, name, power_w, rails = done.stdout.split()
    assert (kind, name, rails) == tuple(expected.split()[i] for i in (0, 1, 3))
    assert int(power_w) == pytest.approx(250, rel=0.1)
