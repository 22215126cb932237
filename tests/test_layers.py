"""Who may import whom: the layers of docs/architecture.md, imports hidden in functions included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "joulemeter"

WORDS = {
    "errors",
    "units",
    "reading",
    "span",
    "kernel",
    "device",
    "timeline",
    "ledger",
    "topology",
    "network",
    "record",
}
WORLD = {
    "sources",
    "frameworks",
    "kernels",
    "graphs",
    "importers",
    "conditions",
    "refresh",
    "_powercap",
    "layers",
    "aten",
    "aten_products",
    "traced",
    "onnx_operators",
    "tflite_operators",
    "onnx_folding",
    "keras_layer",
    "keras_images",
    "keras_operators",
    "flatbuffer",
    "subnormal",
    "composition",
}
SUMS = {
    *(
        "attribution",
        "idle",
        "occupancy",
        "columns",
        "nesting",
        "priors",
        "design",
        "ages",
        "excerpt",
        "ticks",
        "slopes",
        "ascent",
        "response",
        "noise",
        "misfit",
        "glitches",
        "posterior",
        "estimation",
        "lanetail",
        "stretches",
        "feeds",
        "others",
        "beat",
    ),
    *("isolation", "comparison", "window", "traffic", "accuracy", "models", "scoring", "calltree"),
}
VIEWS = {"report", "cli", "__main__"}
RANK = {"words": 0, "world": 1, "sums": 1, "verbs": 2, "views": 3}

SUMS_MAY_USE = {"numpy", "scipy"}


def layer(name: str) -> str:
    """The layer that a file or folder of the package lies in; whatever is not named is a verb."""
    for found, names in (("words", WORDS), ("world", WORLD), ("sums", SUMS), ("views", VIEWS)):
        if name in names:
            return found
    return "verbs"


def files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def imported(tree: ast.AST) -> set[str]:
    """The dotted names of everything that ``tree`` imports, at whatever depth; typing-only imports too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module or "")
            if node.module == "joulemeter":
                names |= {f"joulemeter.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_its_own_layer_and_those_below(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    mine = layer(here)
    for name in imported(ast.parse(path.read_text())):
        if not name.startswith("joulemeter."):
            continue
        there = name.split(".")[1]
        theirs = layer(there)
        same_side = {mine, theirs} != {"world", "sums"}
        assert RANK[theirs] <= RANK[mine], f"{here} ({mine}) imports {there} ({theirs})"
        assert same_side, f"world and sums meet only in a verb: {here} imports {there}"


@pytest.mark.parametrize(
    "path",
    [p for p in files() if layer(p.relative_to(ROOT).parts[0].removesuffix(".py")) == "sums"],
    ids=lambda p: p.name,
)
def test_sums_need_no_library_but_numpy_and_scipy(path: Path) -> None:
    """models/ may also use scikit-learn, and threadpoolctl, which comes with it."""
    import sys

    allowed = (
        SUMS_MAY_USE | ({"sklearn", "threadpoolctl"} if "models" in path.parts else set()) | {"joulemeter"}
    )
    roots = {name.split(".")[0] for name in imported(ast.parse(path.read_text()))}
    assert roots - allowed - set(sys.stdlib_module_names) == set()


def test_importing_the_package_imports_nothing_heavy() -> None:
    """No numpy, click or pyarrow on `import joulemeter`: a meter runs inside what it measures."""
    import subprocess
    import sys

    code = "import sys, joulemeter; print([n for n in sys.modules if n in {'numpy', 'click', 'pyarrow', 'scipy', 'rich'}])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
