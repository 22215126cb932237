"""Real libraries under the gates: programs print the same, and what runs traced is metered from outside.

All of ``tests/programs`` are compared by ``benchmarks/programs.py``; here, two that compile.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from joulemeter import recorder as recording
from joulemeter.frameworks import calls, describe, imports, tracing
from test_calls import ENGINES

PROGRAMS = Path(__file__).parent / "programs"


def sites(folder: Path) -> list[dict[str, Any]]:
    """The sites that the launched program made, with the last description of each."""
    (path,) = folder.glob("sites-*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    described = {line["describe"]: line["arguments"] for line in lines if "describe" in line}
    return [{**line, "arguments": described.get(line["id"], {})} for line in lines if "id" in line]


@pytest.mark.parametrize(
    ("program", "needs", "apis", "traced", "plain"),
    [
        pytest.param(
            "torch_compile",
            "torch",
            [],
            {"torch.compile(whole)", "torch.compile(broken)"},
            "torch.nn.Linear",
            marks=pytest.mark.slow,
        ),
        ("jax_numba", "numba", [], {"jax.jit(<lambda>)"}, "jax.numpy.ones"),
        (
            "jax_numba",
            "numba",
            ["--api", "jax,numba"],
            {"numba.jit(total)", "numba.jit(twice)"},
            "jax.numpy.ones",
        ),
    ],
)
def test_what_is_compiled_from_source_or_bytecode_compiles_as_it_did(
    program: str, needs: str, apis: list[str], traced: set[str], plain: str, tmp_path: Path
) -> None:
    pytest.importorskip(needs)
    script = str(PROGRAMS / f"{program}.py")
    outputs = [
        subprocess.run(
            [sys.executable, *how, script], capture_output=True, text=True, timeout=250, check=True
        ).stdout
        for how in ([], ["-m", "joulemeter.launch", "--raw", str(tmp_path), *apis])
    ]
    assert outputs[0] == outputs[1] != ""
    found = sites(tmp_path)
    assert traced <= {site["name"] for site in found if site["arguments"].get("traced")}
    assert plain in {site["name"] for site in found}
    assert not any(site["arguments"].get("traced") for site in found if site["name"] == plain)


def gated(tmp_path: Path, source: str, apis: tuple[str, ...] = ()) -> dict[str, Any]:
    recorder = recording.Recorder(tmp_path)
    judge = calls.Judge(recorder, apis)
    source_maker = imports.Sources(judge, recorder.gates(judge, calls.special()), lambda _: None)
    space: dict[str, Any] = {"__name__": "gated_module", "recorder": recorder, "judge": judge}
    exec(source_maker.code(source, "gated_module.py"), space)
    return space


def test_a_function_copied_by_value_works_where_joulemeter_is_not(tmp_path: Path) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    space = gated(
        tmp_path, "import json\ndef f(a, b): return [x for x in (json.dumps(a @ b), len('ab'))]\n", ("json",)
    )
    module = types.ModuleType("gated_module")
    sys.modules["gated_module"] = module
    try:
        cloudpickle.register_pickle_by_value(module)
        copied = cloudpickle.dumps(space["f"])
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules["gated_module"]
    assert b"joulemeter" not in copied.replace(b"joulemeter gate", b"")

    class One:
        def __matmul__(self, other: object) -> int:
            return 7

    assert pickle.loads(copied)(One(), One()) == ["7", 2]
    space["recorder"].close()


def test_a_function_that_is_restored_has_the_code_its_author_wrote(tmp_path: Path) -> None:
    source = "fs = [lambda x: len(x), lambda x: len(x) + 1]\ndef g(n):\n    def h(x): return abs(x) + n\n    return h\n"
    space = gated(tmp_path, source)
    plain: dict[str, Any] = {}
    exec(compile(source, "gated_module.py", "exec", dont_inherit=True), plain)
    for mine, theirs in zip(
        (*space["fs"], space["g"], space["g"](3)), (*plain["fs"], plain["g"], plain["g"](3)), strict=True
    ):
        assert tracing.gated(mine.__code__)
        tracing.restore(mine)
        assert mine.__code__ == theirs.__code__
    assert [f("abc") for f in space["fs"]] == [3, 4]
    assert space["g"](3)(-1) == 4
    space["recorder"].close()


def test_the_default_apis_are_the_libraries_that_sources_import(tmp_path: Path) -> None:
    space = gated(tmp_path, "import json\n")
    judge = space["judge"]
    assert not judge.module("torch.nn")
    assert judge.imported(["os", "torch", "json"])
    assert not judge.imported(["torch"]), "nothing new"
    assert judge.module("torch.nn")
    assert not judge.module("torchless")
    assert not judge.module("json")
    space["recorder"].close()


UFUNCS = """
import numpy as np, scipy.special as special
x = np.ones(3)
for _ in range(2):
    np.add(x, x), np.abs(x), np.exp(x, out=x), special.expit(x)
    np.add.reduce(x), np.multiply.outer(x, x), np.maximum.at(x, 0, 1.0)
np.frompyfunc(abs, 1, 1)(x)
np.frompyfunc(abs, 1, 1).reduce
a, b, c = x
h, = x.shape
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_numpys_functions_of_elements_are_told_apart(engine: Any, tmp_path: Path) -> None:
    recorder = recording.Recorder(tmp_path, engine)
    judge = calls.Judge(recorder, ("numpy", "scipy"))
    source_maker = imports.Sources(judge, recorder.gates(judge, calls.special()), lambda _: None)
    exec(source_maker.code(UFUNCS, "ufuncs.py"), {"__name__": "ufuncs"})
    recorder.close()
    names = [site["name"] for site in sites(tmp_path)]
    assert names == [
        "numpy.ones",
        *("numpy.add", "numpy.absolute", "numpy.exp", "scipy.special.expit"),
        *("numpy.add.reduce", "numpy.multiply.outer", "numpy.maximum.at"),
        *("numpy.frompyfunc", "numpy.ufunc.__call__", "numpy.frompyfunc", "numpy.ndarray.__iter__"),
    ]


def test_a_tuple_is_not_a_librarys_iterable_for_having_an_index_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    source = "import torch\nx = torch.ones(2, 2)\nh, w = x.shape\nfor n in x.shape: pass\na, b = x\n"
    gated(tmp_path, source, ("torch",))["recorder"].close()
    assert [site["name"] for site in sites(tmp_path)] == ["torch.ones", "torch.Tensor.__iter__"]


def test_a_dotted_api_is_a_prefix_of_names_not_of_letters() -> None:
    assert calls.covers("torch.nn", "torch.nn.Linear")
    assert calls.covers("torch.nn", "torch.nn")
    assert not calls.covers("torch.nn", "torch.nnx.Linear")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, {"type": "int", "value": 3}),
        (True, {"type": "bool", "value": True}),
        (None, {"type": "NoneType", "value": None}),
        ("x" * 64, {"type": "str", "value": "x" * 64}),
        ("x" * 65, {"type": "str", "length": 65, "items": []}),
        (float("inf"), {"type": "float", "value": "inf"}),
        (1j, {"type": "complex", "value": "1j"}),
        (1 << 70, {"type": "int", "value": "large"}),
        (
            [1, "a"],
            {
                "type": "list",
                "length": 2,
                "items": [{"type": "int", "value": 1}, {"type": "str", "value": "a"}],
            },
        ),
        (object(), {"type": "builtins.object"}),
    ],
)
def test_arguments_are_described(value: Any, expected: dict[str, Any]) -> None:
    seen = describe.as_json(describe.describe(value))
    assert seen == expected
    json.dumps(seen, allow_nan=False)


def test_arrays_are_described_by_shape_dtype_device_and_bytes() -> None:
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    assert describe.as_json(describe.describe(numpy.zeros((2, 3), "float32"))) == {
        "type": "numpy.ndarray",
        "shape": [2, 3],
        "dtype": "float32",
        "device": "cpu",
        "bytes": 24,
    }
    tensor = describe.as_json(describe.describe(torch.zeros(4, 5, dtype=torch.float64)))
    assert (tensor["shape"], tensor["dtype"], tensor["bytes"]) == ([4, 5], "float64", 160)


def test_describing_looks_at_no_attribute_of_the_users_own_types() -> None:
    torch = pytest.importorskip("torch")

    class Touchy:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"{name} was looked at")

    class Own(torch.Tensor):
        @classmethod
        def __torch_function__(cls, *_: Any, **__: Any) -> Any:
            raise AssertionError("a function was called")

    assert describe.describe(Touchy())[0].endswith("Touchy")
    assert len(describe.describe(torch.zeros(2).as_subclass(Own))) == 1


def test_what_is_seen_is_counted_and_bounded() -> None:
    seen = describe.Seen()
    for count in range(1, 101):
        seen.take(count, (count, "k"), ("name",), None)
    summary = seen.summary()
    assert (summary["described"], summary["of"]) == (100, 100)
    assert sum(each["count"] for each in summary["each"]["0"]) == 100
    assert len(summary["each"]["0"]) == describe.MOST + 1
    assert summary["each"]["name"] == [{"type": "str", "value": "k", "count": 100}]


def test_a_subclass_of_an_array_is_not_asked_by_its_own_properties() -> None:
    asked = []

    class Loud(np.ndarray):
        @property
        def shape(self) -> tuple[int, ...]:
            asked.append("shape")
            return (9,)

        @property
        def dtype(self) -> str:
            asked.append("dtype")
            return "loud"

        @property
        def nbytes(self) -> int:
            asked.append("nbytes")
            return 9

    loud = np.ones(3).view(Loud)
    asked.clear()
    assert describe.describe(loud)[1:] == ((3,), "float64", "cpu", 24)
    assert not asked


def test_the_code_cache_serves_what_was_written_and_refuses_what_others_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from joulemeter.frameworks import codecache

    monkeypatch.setattr(codecache, "cache_folder", lambda: str(tmp_path))
    source = b"import json\nx = json.dumps([len('ab')])\n"
    first = codecache.compiled(source, "a.py")
    (entry,) = tmp_path.iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600
    assert codecache.load(str(entry)) == first == codecache.compiled(source, "a.py")
    assert first.imports == ("json",)
    assert codecache.digest(source, "a.py", 0) != codecache.digest(source, "b.py", 0)
    assert codecache.digest(source, "a.py", 0) != codecache.digest(source + b" ", "a.py", 0)
    entry.chmod(0o620)
    assert codecache.load(str(entry)) is None, "others may have written it"
    entry.chmod(0o600)
    (tmp_path / "link").symlink_to(entry)
    assert codecache.load(str(tmp_path / "link")) is None
    entry.write_bytes(entry.read_bytes()[:-3])
    assert codecache.load(str(entry)) is None, "it is torn"
    assert codecache.compiled(source, "a.py") == first


FUNCTIONS = """
import numpy as np, scipy.fft, scipy.linalg.blas as blas, scipy.special as special
x = np.ones((4, 4))
for _ in range(2):
    np.sum(x), np.linalg.svd(x), np.fft.fft(x), np.ma.exp(x), np.random.default_rng(0).normal()
    scipy.fft.fft(x), special.legendre_p(2, x), blas.dgemm(1.0, x, x)
"""
TORCH_FUNCTIONS = """
import torch
import torch.nn.functional as F
x = torch.ones(1, 3, 8, 8)
for _ in range(2):
    F.max_pool1d(x[0], 2), F.max_pool2d(x, 2), torch.ops.aten.add(x, x), torch.ops.aten.add.Tensor(x, x)
def f(x):
    return x
for made in (torch.no_grad()(f), torch.autocast("cpu")(f), torch.vmap(f), torch.compiler.disable(f)):
    made(x)
"""
JAX_FUNCTIONS = """
import jax, jax.numpy as jnp
def loss(x):
    return x * x
@jax.custom_jvp
def own(x):
    return x
own.defjvp(lambda p, t: (p[0], t[0]))
jax.nn.relu(1.0), jnp.add(1, 2), own(1.0)
for made in (jax.grad(loss), jax.hessian(loss), jnp.vectorize(loss)):
    made(2.0)
"""


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("source", "apis", "expected"),
    [
        (
            FUNCTIONS,
            ("numpy", "scipy"),
            "numpy.ones numpy.sum numpy.linalg.svd numpy.fft.fft numpy.ma.exp numpy.random.default_rng "
            "numpy.random.Generator.normal scipy.fft.fft scipy.special.legendre_p scipy.linalg.blas.dgemm",
        ),
        (FUNCTIONS, ("numpy.linalg",), "numpy.linalg.svd"),
        (
            TORCH_FUNCTIONS,
            ("torch",),
            "torch.ones torch.nn.functional.max_pool1d torch.nn.functional.max_pool2d torch.ops.aten.add "
            "torch.ops.aten.add.Tensor torch.no_grad torch.no_grad.__call__ torch.autocast "
            "torch.autocast.__call__ torch.vmap torch.compiler.disable torch.no_grad(f) torch.autocast(f) "
            "torch.vmap(f) torch.compiler.disable(f)",
        ),
        (TORCH_FUNCTIONS, ("torch.vmap",), "torch.vmap torch.vmap(f)"),
        (
            JAX_FUNCTIONS,
            ("jax",),
            "jax.custom_jvp jax.custom_jvp.defjvp jax.nn.relu jax.numpy.add jax.custom_jvp.__call__ jax.grad "
            "jax.hessian jax.numpy.vectorize jax.grad(loss) jax.jacfwd(loss) jax.numpy.vectorize(loss)",
        ),
    ],
    ids=["numpy", "a submodule", "torch", "a function", "jax"],
)
def test_functions_are_named_as_their_users_write_them(
    engine: Any, source: str, apis: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    pytest.importorskip(apis[0].partition(".")[0])
    recorder = recording.Recorder(tmp_path, engine)
    judge = calls.Judge(recorder, apis)
    source_maker = imports.Sources(judge, recorder.gates(judge, calls.special()), lambda _: None)
    exec(source_maker.code(source, "functions.py"), {"__name__": "functions"})
    recorder.close()
    found = [site for site in sites(tmp_path) if site["kind"] == "call"]
    assert [site["name"] for site in found] == expected.split()
    assert not any((site.get("arguments") or {}).get("traced") for site in found), "nothing here runs traced"
