"""Kernel families: what they say they do is what the framework does."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from joulemeter import kernels
from joulemeter.errors import UsageError
from joulemeter.kernel import Kernel, Work
from joulemeter.kernels import backward

torch = pytest.importorskip("torch")

FORWARD = sorted(name for name in kernels.families() if not name.endswith("-backward"))
ON_ONNX = sorted({"conv", "dwconv-relu", "conv-bn-relu", "fc", "fc-gelu", "maxpool", "avgpool", "global-avgpool", "relu"}
                 | {"hswish", "gelu", "add", "mul", "bn", "layernorm", "concat", "split", "copy", "channelshuffle", "se"}
                 | {"softmax", "reduction", "embedding", "rotary", "lstm", "gru", "rnn", "sort", "resize", "matmul", "attention"})  # fmt: skip


def small(name: str, seed: int) -> Kernel:
    """A sample of few FLOPs: tests need no large one."""
    rng = np.random.default_rng([seed, len(name)])
    drawn = [kernels.family(name).sample(name, rng) for _ in range(12)]
    return min(drawn, key=lambda kernel: kernels.work(kernel).bytes + kernels.work(kernel).flops / 10)


def tensors(kernel: Kernel) -> list["torch.Tensor"]:
    form = kernels.form(kernel)
    made = []
    for each in (*form.inputs, *form.weights):
        if each.dtype == "int64":
            made.append(torch.zeros(each.shape, dtype=torch.int64))
        else:
            made.append(torch.rand(each.shape) + 0.1)
    return made


@pytest.mark.parametrize("name", FORWARD)
def test_a_family_launches_and_its_results_are_those_it_says(name: str) -> None:
    kernel = small(name, 1)
    form, work = kernels.form(kernel), kernels.work(kernel)
    with torch.no_grad():
        made = kernels.family(name).torch(kernel)(*tensors(kernel))
    results = made if isinstance(made, list | tuple) else [made]
    if form.results and name not in ("sgd", "adam"):  # those return one of the tensors they changed
        assert sum(each.numel() for each in results) == sum(each.elements for each in form.results)
    assert work.flops >= 2 * form.multiply_adds
    assert (work.bytes > 0) == (name != "view")


@pytest.mark.parametrize("name", ["conv", "dwconv", "fc", "matmul", "transposed-conv", "conv-add-relu"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_multiply_adds_are_those_that_the_framework_counts(name: str, seed: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    kernel = small(name, seed)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        kernels.family(name).torch(kernel)(*tensors(kernel))
    assert counter.get_total_flops() == 2 * kernels.multiply_adds(kernel)


@pytest.mark.parametrize("name", ON_ONNX)
def test_its_onnx_nodes_load_and_give_results_of_the_same_size(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    from joulemeter.rig import onnx_model

    kernel = small(name, 4)
    form = kernels.form(kernel)
    rng = np.random.default_rng(0)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnx_model(form, kernels.family(name).onnx(kernel), rng)
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for i, each in enumerate(form.inputs):
        feeds[f"x{i}"] = np.zeros(each.shape, each.dtype) + (0 if each.dtype == "int64" else 0.5)
    results = session.run(None, feeds)
    assert sum(each.size for each in results) == sum(each.elements for each in form.results)


# Worked by hand: (kernel, multiply-adds, bytes read, bytes written, parameters).
TABLE = [
    (
        # 3×3 over 56², 64 to 64: 56²·64·64·9 products; 64·56² numbers in, 64·64·9 weights.
        Kernel("conv", {"height": 56, "width": 56, "in_channels": 64, "out_channels": 64, "kernel_height": 3, "kernel_width": 3}),
        115_605_504, 4 * (200_704 + 36_864), 4 * 200_704, 36_864,
    ),
    (
        # grouped: 32 groups of 4 channels each, stride 2: 28²·128·4·9.
        Kernel("conv", {"height": 56, "width": 56, "in_channels": 128, "out_channels": 128, "groups": 32, "kernel_height": 3,
                        "kernel_width": 3, "stride_height": 2, "stride_width": 2}),
        3_612_672, 4 * (401_408 + 4_608), 4 * 100_352, 4_608,
    ),
    (
        # dilated by 2 it covers 5×5 and with "same" padding keeps 14².
        Kernel("conv", {"height": 14, "width": 14, "in_channels": 8, "out_channels": 4, "kernel_height": 3, "kernel_width": 3,
                        "dilation_height": 2, "dilation_width": 2}),
        14 * 14 * 4 * 8 * 9, 4 * (1_568 + 288), 4 * 784, 288,
    ),
    (Kernel("fc", {"rows": 2, "in_features": 3, "out_features": 5, "bias": 1}), 30, 4 * (6 + 15 + 5), 4 * 10, 20),
    (Kernel("matmul", {"products": 2, "rows": 3, "inner": 4, "columns": 5}), 120, 4 * (24 + 40), 4 * 30, 0),
    # 2 queries over 3 keys, 1 head of 4: QKᵀ 24 and ·V 24.
    (Kernel("attention", {"heads": 1, "head_width": 4, "queries": 2, "keys": 3}), 48, 4 * (8 + 12 + 12), 4 * 8, 0),
    # 5 of 100 rows of 8: 5 numbers of 8 bytes, 40 of 4; the other rows are not touched.
    (Kernel("embedding", {"tokens": 5, "entries": 100, "width": 8}), 0, 5 * 8 + 40 * 4, 40 * 4, 800),
    # one step of 4 gates: 4·3·(2 + 3) products.
    (Kernel("lstm", {"steps": 1, "in_features": 2, "hidden": 3}), 60, 4 * (2 + 24 + 36 + 12 + 12), 4 * 3, 84),
    # the same with one gate.
    (Kernel("rnn", {"steps": 1, "in_features": 2, "hidden": 3}), 15, 4 * (2 + 6 + 9 + 3 + 3), 4 * 3, 21),
    # 8 real numbers to 5 complex ones, and back; 3 rows of 8 complex ones.
    (Kernel("fft", {"rows": 1, "points": 8}), 0, 4 * 8, 4 * 10, 0),
    (Kernel("fft", {"rows": 1, "points": 8, "kind": "inverse-real"}), 0, 4 * 10, 4 * 8, 0),
    (Kernel("fft", {"rows": 3, "points": 8, "kind": "complex"}), 0, 4 * 48, 4 * 48, 0),
    # the 2 largest of 16, 3 times: values of 4 bytes and places of 8.
    (Kernel("sort", {"rows": 3, "columns": 16, "kept": 2}), 0, 4 * 48, (4 + 8) * 6, 0),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "macs", "read", "written", "parameters"), TABLE)
def test_work_is_that_worked_by_hand(
    kernel: Kernel, macs: int, read: float, written: float, parameters: float
) -> None:
    work = kernels.work(kernel)
    assert kernels.multiply_adds(kernel) == macs
    assert (work.read_bytes, work.write_bytes, work.parameters) == (read, written, parameters)


def test_a_backward_pass_has_two_products_for_each() -> None:
    """dX = dY Wᵀ and dW = Xᵀ dY; all gradients are written."""
    from joulemeter.rig import rig

    kernel = Kernel("fc", {"rows": 4, "in_features": 3, "out_features": 5, "bias": 1, "in_place": 1})
    back = backward.of(kernel)
    assert back.direction == "backward"
    assert "in_place" not in back.shape
    assert kernels.multiply_adds(back) == 2 * kernels.multiply_adds(kernel)
    assert kernels.work(back).write_bytes == 4 * (12 + 15 + 5)
    call = rig(back)
    assert call is not None
    call()


@pytest.mark.parametrize("name", sorted(name for name in kernels.families() if name.endswith("-backward")))
def test_every_backward_pass_can_be_taken_and_writes_the_gradients_that_it_says(name: str) -> None:
    kernel = small(name, 5)
    first = backward.forward(kernel)
    leaves = [each.requires_grad_(each.is_floating_point()) for each in tensors(first)]
    made = kernels.family(name).torch(kernel)(*leaves)
    results = [each for each in (made if isinstance(made, list | tuple) else [made]) if each.requires_grad]
    wanted = [each for each in leaves if each.requires_grad]
    gradients = torch.autograd.grad(results, wanted, [torch.ones_like(y) for y in results], allow_unused=True)
    written = sum(each.numel() for each in gradients if each is not None)
    assert written == sum(each.elements for each in kernels.form(kernel).results)


def test_samples_are_joint_a_depthwise_layer_keeps_its_channels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        kernel = kernels.family("dwconv").sample("dwconv", rng)
        assert kernel.shape["in_channels"] == kernel.shape["out_channels"] == kernel.shape["groups"]


def test_the_published_sixteen_and_more_are_there() -> None:
    published = "conv-bn-relu dwconv-bn-relu fc global-avgpool maxpool avgpool relu hswish bn bn-relu add add-relu concat split se channelshuffle"
    more = "matmul attention layernorm rmsnorm groupnorm softmax gelu silu swiglu embedding rotary lstm gru resize reduction copy sgd adam transposed-conv"
    assert set(published.split()) | set(more.split()) <= set(kernels.families())


def test_a_transform_and_a_sort_take_their_points_times_their_logarithm() -> None:
    kinds = ("complex", "real")
    flops = [kernels.work(Kernel("fft", {"rows": 2, "points": 8, "kind": kind})).flops for kind in kinds]
    assert flops == [5 * 2 * 8 * 3, 5 * 2 * 8 * 3 / 2]
    assert kernels.work(Kernel("sort", {"rows": 2, "columns": 16})).flops == 2 * 16 * 4
    assert kernels.work(Kernel("sort", {"rows": 2, "columns": 16, "kept": 4})).flops == 2 * 16 * 2


def test_an_unknown_family_is_refused_with_the_nearest_or_where_all_are_named() -> None:
    with pytest.raises(UsageError, match=r"no kernel family 'sotr'. Try: sort"):
        kernels.family("sotr")
    with pytest.raises(UsageError, match=r"no kernel family 'xyzzy'.*joulemeter bench --list"):
        kernels.family("xyzzy")


def test_one_and_three_dimensions_launch() -> None:
    one = Kernel("conv", {"length": 20, "in_channels": 3, "out_channels": 4, "kernel_length": 3})
    three = Kernel("conv", {"depth": 4, "height": 5, "width": 6, "in_channels": 2, "out_channels": 3, "kernel_depth": 3,
                            "kernel_height": 3, "kernel_width": 3})  # fmt: skip
    for kernel in (one, three):
        with torch.no_grad():
            made = kernels.family("conv").torch(kernel)(*tensors(kernel))
        assert made.numel() == kernels.form(kernel).results[0].elements


def test_work_sums() -> None:
    a = kernels.work(Kernel("relu", {"elements": 10}))
    assert a == Work(10.0, 40.0, 40.0, 0.0)
    warnings.simplefilter("error")


def test_a_kernel_is_known_by_its_configuration_and_written_down_once() -> None:
    one = Kernel("fc", {"rows": 1, "in_features": 2}, batch=3)
    same = Kernel("fc", {"in_features": 2, "rows": 1}, batch=3)
    assert one.key == 'fc/forward/float32/3/{"in_features":2,"rows":1}'
    assert (one == same, hash(one) == hash(same)) == (True, True)
    assert one.key is one.key
    assert Kernel.from_json(one.to_json()) == one
    assert replace(one, batch=1).key != one.key
