"""Keras files: what real Keras 3 saves is read into the kernels that it runs, and never runs code."""

import json
import math
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from joulemeter import graphs, kernels
from joulemeter.errors import GraphError
from joulemeter.graphs import keras as reader
from joulemeter.graphs import torch_export
from joulemeter.keras_operators import TABLE
from joulemeter.network import Network
from joulemeter.predict import as_run

# Keras 3.15 with TensorFlow 2.21 and NumPy 2, where it saves a file.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")


def macs(network: Network) -> float:
    return math.fsum(kernels.multiply_adds(each) for each in network.kernels)


# ── files made by hand ───────────────────────────────────────────────────────────────────────────────


def tensor(shape: tuple[int | None, ...], source: str, node: int = 0) -> dict[str, object]:
    return {
        "class_name": "__keras_tensor__",
        "config": {"shape": list(shape), "keras_history": [source, node, 0]},
    }


def layer(kind: str, name: str, *reads: dict[str, object], **config: object) -> dict[str, object]:
    """A layer that reads each of ``reads`` by itself: as many uses."""
    uses = [{"args": [each], "kwargs": {}} for each in reads]
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": uses}


def image(*shape: int | None) -> dict[str, object]:
    return layer("InputLayer", "x", batch_shape=list(shape))


def saved(path: Path, held: list[dict[str, object]], kind: str = "Functional", last: str = "") -> str:
    config: dict[str, object] = {"name": "model", "layers": held}
    if kind != "Sequential":
        config |= {"input_layers": [["x", 0, 0]], "output_layers": [last or held[-1]["name"], 0, 0]}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": kind, "config": config}))
    return str(path)


def by_hand(path: Path) -> str:
    return saved(path, [
        image(None, 16, 16, 3),
        layer("Conv2D", "c", tensor((None, 16, 16, 3), "x"), filters=8, kernel_size=[3, 3], strides=[2, 2],
              padding="same", use_bias=False, activation="linear"),
        layer("BatchNormalization", "n", tensor((None, 8, 8, 8), "c")),
        layer("ReLU", "r", tensor((None, 8, 8, 8), "n")),
        layer("Lambda", "l", tensor((None, 8, 8, 8), "r"), function="evil"),
    ])  # fmt: skip


def test_a_convolution_is_the_same_kernel_and_a_lambda_is_named_not_run(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    network = as_run(graphs.read(by_hand(tmp_path / "m.keras"), {"": (2, 16, 16, 3)}))
    assert network.unpriced == {"Lambda": 1}
    conv, relu = network.kernels
    module = torch.nn.Conv2d(3, 8, 3, 2, 1)
    (made,) = torch_export.from_module(module, (torch.zeros(2, 3, 16, 16),)).kernels
    assert conv == made
    assert relu.family == "relu"
    assert network.inputs == {"x": (2, 16, 16, 3)}


def test_a_model_of_a_class_of_ones_own_says_how_to_save_it(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"is a MyModel, which does not list.*keras\.Model"):
        graphs.read(saved(tmp_path / "m.keras", [image(None, 3)], "MyModel"))


def test_a_sequential_model_without_a_shape_asks_for_one_and_takes_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.keras", [layer("Dense", "d", units=5)], "Sequential")
    with pytest.raises(GraphError, match=r"input input may be of any size. Try: --input input=1,"):
        graphs.read(path)
    (kernel,) = graphs.read(path, {"": (4, 7)}).kernels
    assert kernel.shape == {"rows": 4, "in_features": 7, "out_features": 5, "bias": 1}


def test_an_input_that_the_file_contradicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        GraphError, match=r"has no input of \(1, 32, 32, 3\). Try: --input .*x \(1, 16, 16, 3\)"
    ):
        graphs.read(by_hand(tmp_path / "m.keras"), {"": (1, 32, 32, 3)})


def test_after_a_layer_nobody_knows_the_next_is_named_too_unless_the_file_knows_its_shape(
    tmp_path: Path,
) -> None:
    layers = [
        image(None, 6), layer("MyLayer", "mine"), layer("ReLU", "r"),
        {**layer("Dense", "d", units=5), "build_config": {"input_shape": [None, 9]}},
    ]  # fmt: skip
    network = graphs.read(saved(tmp_path / "m.keras", layers, "Sequential"), {"": (2, 6)})
    assert [node.reason for node in network.nodes if node.kernel is None] == [
        "no formula for it", "the shape of what it reads is not known",
    ]  # fmt: skip
    (kernel,) = network.kernels
    assert kernel.dimension("in_features") == 9


def test_a_window_larger_than_its_image_is_one_line(tmp_path: Path) -> None:
    window = layer("MaxPooling2D", "p", tensor((None, 4, 4, 3), "x"), pool_size=[9, 9])
    path = saved(tmp_path / "m.keras", [image(None, 4, 4, 3), window])
    with pytest.raises(
        GraphError, match=r"a MaxPooling2D of \(1, 4, 4, 3\) would leave \(1, 0, 0, 3\).* Try: "
    ):
        graphs.read(path)


@given(noise=st.recursive(
    st.none() | st.integers(-5, 70) | st.sampled_from(["x", "c", "Conv2D", "Sequential", "same", "relu"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["class_name", "config", "layers", "name", "shape", "keras_history", "args", "items", "filters"]), inner, max_size=3),
    max_leaves=6,
), at=st.integers(0, 40))  # fmt: skip
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_where_in_a_configuration_it_is_read_or_refused(
    tmp_path: Path, noise: object, at: int
) -> None:
    """Every value of a sound file in turn is replaced by nonsense: what is read then has no work below nothing."""
    path = by_hand(tmp_path / "m.keras")
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("config.json"))
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            places.append((value, key))
            walk(value[key])

    walk(data)
    holder, key = places[at * (len(places) - 1) // 40]
    holder[key] = noise
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(data))
    works = []
    with suppress(GraphError):
        works = [kernels.work(each) for each in graphs.read(path).kernels]
    assert all(min(work.flops, work.read_bytes, work.write_bytes) >= 0 for work in works)


@pytest.mark.parametrize("odd", [{"kernel_size": 0}, {"strides": -1}, {"dilation_rate": 0}, {"filters": -8}])
def test_a_size_that_is_none_is_refused(tmp_path: Path, odd: dict[str, int]) -> None:
    sizes = {"filters": 8, "kernel_size": 3, "strides": 1, "dilation_rate": 1, "padding": "same", **odd}
    path = saved(
        tmp_path / "m.keras",
        [image(None, 9, 9, 3), layer("Conv2D", "c", tensor((None, 9, 9, 3), "x"), **sizes)],
    )
    with pytest.raises(GraphError, match=r"not as Keras 3 writes it.* Try: "):
        graphs.read(path)


def test_a_number_added_is_a_kernel_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.keras", [image(None, 6), layer("Add", "a", tensor((None, 6), "x"))])
    (kernel,) = graphs.read(path).kernels
    assert (kernel.family, kernel.shape) == ("add", {"elements": 6, "broadcast": "scalar"})


def test_a_model_used_twice_is_priced_twice(tmp_path: Path) -> None:
    inner = {
        "input_layers": [["x", 0, 0]], "output_layers": [["d", 0, 0]],
        "layers": [image(None, 6), layer("Dense", "d", tensor((None, 6), "x"), units=6)],
    }  # fmt: skip
    shared = layer("Functional", "f", tensor((None, 6), "x"), tensor((None, 6), "f"))
    shared["config"] = inner
    path = saved(
        tmp_path / "m.keras", [image(None, 6), shared, layer("ReLU", "r", tensor((None, 6), "f", 1))]
    )
    network = graphs.read(path)
    assert [kernel.family for kernel in network.kernels] == ["fc", "fc", "relu"]
    assert [node.name for node in network.nodes] == ["f.d", "f:1.d", "r"]
    assert network.nodes[1].reads == ("f.d",)


@pytest.mark.parametrize("history", ["r", "nowhere"])
def test_layers_that_go_round_or_come_from_nowhere_are_one_line(tmp_path: Path, history: str) -> None:
    path = saved(tmp_path / "m.keras", [image(None, 6), layer("ReLU", "r", tensor((None, 6), history))])
    with pytest.raises(GraphError, match=r"(round in a circle|not as Keras 3 writes it).* Try: "):
        graphs.read(path)


def test_models_within_models_each_used_twice_end_at_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "MAX_NODES", 2000)
    held = layer("ReLU", "m", tensor((None, 6), "x"), tensor((None, 6), "m"))
    for _ in range(40):
        inner = {
            "layers": [image(None, 6), held], "input_layers": [["x", 0, 0]], "output_layers": [["m", 1, 0]],
        }  # fmt: skip
        held = layer("Functional", "m", tensor((None, 6), "x"), tensor((None, 6), "m"))
        held["config"] = inner
    with pytest.raises(GraphError, match=r"uses more than 2000 layers. Try: "):
        graphs.read(saved(tmp_path / "m.keras", [image(None, 6), held]))


def test_a_layer_of_quantised_numbers_is_left_out_by_name(tmp_path: Path) -> None:
    policy = {"class_name": "QuantizedDTypePolicy", "config": {"name": "int4_from_float32"}}
    path = saved(
        tmp_path / "m.keras",
        [image(None, 6), layer("Dense", "d", tensor((None, 6), "x"), units=3, dtype=policy)],
    )
    (node,) = graphs.read(path).nodes
    assert (node.kernel, node.reason) == (None, "no formula for numbers of int4_from_float32")


# ── what Keras saves ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def keras() -> Any:
    return pytest.importorskip("keras")


def opened(path: Path) -> None:
    """Takes every shape but the inputs' out of a file: what is left is what follows from the settings."""
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("config.json"))

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            value.pop("build_config", None)
            if value.get("class_name") == "__keras_tensor__":
                value["config"]["shape"] = [None] * len(value["config"]["shape"])
        for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(each)

    walk(data)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(data))


def images(keras: Any) -> Any:
    make = keras.layers
    x = keras.Input((20, 24, 3))
    y = make.SeparableConv2D(8, 3, strides=2, padding="same", depth_multiplier=2, activation="gelu")(x)
    y = make.GroupNormalization(4)(y)
    side = make.Conv2D(8, 3, dilation_rate=2, padding="same", groups=2)(y)
    y = make.Maximum()([y, side]) + 1.0
    y = make.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu")(y)
    y = make.ZeroPadding2D(((1, 2), (0, 1)))(y)
    y = make.Cropping2D(1)(y)
    y = make.AveragePooling2D(3, strides=2, padding="same")(y)
    y = make.UpSampling2D((2, 1))(y)
    y = make.Permute((2, 1, 3))(y)
    y = make.Reshape((-1, 12))(y)
    y = make.Conv1D(7, 5, strides=2)(y)
    y = make.MaxPooling1D(3)(y)
    y = keras.ops.mean(y, axis=1, keepdims=True)
    return keras.Model(x, make.Concatenate()([make.Flatten()(y), make.GlobalMaxPooling2D()(side)]))


def words(keras: Any) -> Any:
    make = keras.layers
    x = keras.Input((11,))
    y = make.Embedding(50, 16)(x)
    y = make.Bidirectional(make.LSTM(9, return_sequences=True))(y)
    y = make.TimeDistributed(make.Dense(16, activation="relu"))(y)
    y = make.Add()([y, make.MultiHeadAttention(4, 6)(y, y)])
    y = make.LayerNormalization()(y)
    y = make.Add()([y, make.GroupQueryAttention(8, 4, 2)(y, y)])
    y = make.EinsumDense("abc,cde->abde", output_shape=(None, 3, 5), bias_axes="de")(y)
    y = make.Reshape((11, 15))(y)
    y = make.Average()([make.Attention()([y, y]), make.SpatialDropout1D(0.1)(y)])
    y = make.GRU(10)(y)
    return keras.Model(x, make.Dot(1)([y, make.Softmax()(y)]))


def in_turn(keras: Any) -> Any:
    make = keras.layers
    body = keras.Sequential([make.RandomFlip(), make.Conv2D(4, 3), make.LeakyReLU()])
    return keras.Sequential([keras.Input((12, 12, 3)), make.Rescaling(1 / 255), body, make.BatchNormalization(),
                             make.Activation("relu"), make.MaxPooling2D(), make.Flatten(), make.Dense(3)])  # fmt: skip


@pytest.mark.parametrize("build", [images, words, in_turn], ids=lambda each: each.__name__)
def test_every_layer_is_priced_and_its_result_is_as_large_as_keras_says(
    keras: Any, tmp_path: Path, build: Callable[[Any], Any]
) -> None:
    path = tmp_path / "m.keras"
    model = build(keras)
    model.save(path)
    shape = (2, *model.input_shape[1:])
    network = graphs.read(str(path), {"": shape})
    assert network.unpriced == {}
    assert list(network.inputs.values()) == [shape]
    opened(path)
    assert graphs.read(str(path), {"": shape}).nodes == network.nodes
    weights = [each for each in model.weights if "seed" not in each.path]
    assert math.fsum(kernels.work(each).parameters for each in network.kernels) == pytest.approx(
        sum(math.prod(each.shape) for each in weights), rel=0.02
    )


def test_a_model_for_any_size_is_read_for_the_size_given(keras: Any, tmp_path: Path) -> None:
    x = keras.Input((None, None, 3))
    model = keras.Model(
        x, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, padding="same")(x))
    )
    path = str(tmp_path / "m.keras")
    model.save(path)
    with pytest.raises(GraphError, match=r"may be of \(None, None, None, 3\).*Try: --input .*=1,128,128,3$"):
        graphs.read(path)
    assert macs(graphs.read(path, {"": (2, 32, 16, 3)})) == pytest.approx(2 * 32 * 16 * 27 * 4, rel=0.02)


@pytest.mark.parametrize(("name", "published"), [("MobileNetV2", 300e6), ("MobileNetV3Small", 56e6)])
def test_an_application_has_the_multiply_adds_that_its_authors_publish(
    keras: Any, tmp_path: Path, name: str, published: float
) -> None:
    """Sandler et al. 2018, table 4; Howard et al. 2019, table 3: millions of multiply-adds at 224 × 224."""
    model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    path = tmp_path / "m.keras"
    model.save(path)
    network = as_run(graphs.read(str(path)))
    assert network.unpriced == {}
    products = [k for k in network.kernels if k.family in ("conv", "dwconv", "fc")]
    assert math.fsum(kernels.multiply_adds(k) for k in products) == pytest.approx(published, rel=0.03)
    opened(path)
    assert as_run(graphs.read(str(path))).kernels == network.kernels


def test_the_table_names_only_what_keras_has(keras: Any) -> None:
    from keras.src.applications import convnext, inception_resnet_v2
    from keras.src.ops import core, nn, numpy
    from keras.src.ops import math as maths

    places = (keras.layers, convnext, inception_resnet_v2, core, maths, nn, numpy)
    unknown = {name for name in TABLE if not any(hasattr(place, name) for place in places)}
    assert unknown <= {"GroupedQueryAttention"}


def as_tflite(model: Any, path: Path) -> str:
    tensorflow = pytest.importorskip("tensorflow")
    path.write_bytes(tensorflow.lite.TFLiteConverter.from_keras_model(model).convert())
    return str(path)


def test_tensorflows_own_tflite_file_of_a_model_is_the_same_work(keras: Any, tmp_path: Path) -> None:
    """Normalisations that no convolution takes up are products and sums by a number a channel: 5 pixels across
    and 12 channels, of which a reader that took the last for a width would make 12 across.
    """
    make = keras.layers
    x = keras.Input((5, 5, 12))
    y = make.ReLU()(make.BatchNormalization()(x))
    y = make.Conv2D(6, 3, padding="same")(y)
    y = make.Flatten()(y)
    model = keras.Model(x, make.Dense(4)(y))
    model.save(tmp_path / "m.keras")
    read = graphs.read(as_tflite(model, tmp_path / "m.tflite"))
    assert read.unpriced == {}
    assert macs(read) == macs(graphs.read(str(tmp_path / "m.keras")))
    scaled = [each for each in read.kernels if each.family in ("mul", "add") and "channels" in each.shape]
    assert scaled
    for each in scaled:
        assert each.dimension("outer") * each.dimension("channels") * each.dimension("inner") in (300, 12)


def test_a_tflite_file_whose_sizes_were_left_open_is_refused_and_read_once_they_are_not(
    keras: Any, tmp_path: Path
) -> None:
    """A layer on every pixel is converted to a reshape that counts them when it runs: in the file it has one."""

    def dense(**sizes: Any) -> Any:
        x = keras.Input(**sizes)
        return keras.Model(x, keras.layers.Dense(8)(x))

    with pytest.raises(
        GraphError, match=r"\(RESHAPE\) makes \(1, 1\) of \(1, 6, 6, 5\): sizes were left open"
    ):
        graphs.read(as_tflite(dense(shape=(6, 6, 5)), tmp_path / "open.tflite"))
    closed = graphs.read(as_tflite(dense(batch_shape=(1, 6, 6, 5)), tmp_path / "closed.tflite"))
    assert macs(closed) == 36 * 5 * 8


def test_a_sum_of_products_and_the_plain_recurrent_layer_have_kernels(keras: Any, tmp_path: Path) -> None:
    a, b = keras.Input((4, 8)), keras.Input((5, 8))
    scores = keras.ops.einsum("bid,bjd->bij", a, b)
    keras.Model([a, b], keras.layers.SimpleRNN(6)(keras.ops.arctan(scores))).save(tmp_path / "m.keras")
    network = graphs.read(str(tmp_path / "m.keras"))
    assert network.unpriced == {}
    assert [k.family for k in network.kernels if k.family != "view"] == ["matmul", "elementwise", "rnn"]
    assert macs(network) == 4 * 5 * 8 + 4 * 6 * (5 + 6)
