"""Other people's code under the rewrite: Python's own tests, packages, and a whole test suite.

    python benchmarks/corpus.py [python] [packages] [suite FOLDER]

``python`` runs tests of the language from the running Python's ``test`` package, ``packages`` imports pure
Python packages that are installed, each module of them rewritten, ``suite`` runs pytest in the unpacked
source of attrs or click, with package and tests rewritten. Each is run alone too, and must end alike.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

LANGUAGE = (
    "test_grammar",
    "test_generators",
    "test_coroutines",
    "test_asyncgen",
    "test_patma",
    "test_fstring",
    "test_with",
    "test_super",
    "test_descr",
    "test_decorators",
    "test_named_expressions",
    "test_unpack",
    "test_unpack_ex",
    "test_scope",
    "test_exceptions",
    "test_genexps",
    "test_listcomps",
    "test_contextlib",
    "test_contextlib_async",
    "test_positional_only_arg",
    "test_keywordonlyarg",
    "test_yield_from",
    "test_exception_group",
    "test_except_star",
    "test_class",
    "test_compare",
    "test_augassign",
    "test_dictcomps",
    "test_setcomps",
    "test_binop",
    "test_call",
    "test_metaclass",
    "test_enum",
    "test_dataclasses",
    "test_functools",
    "test_itertools",
    "test_typing",
)
PACKAGES = (
    "attr",
    "click",
    "jinja2",
    "requests",
    "urllib3",
    "rich",
    "pygments",
    "networkx",
    "sympy",
    "mpmath",
    "filelock",
    "fsspec",
    "pluggy",
    "iniconfig",
    "jsonschema",
    "toolz",
    "dask",
    "packaging",
    "idna",
    "werkzeug",
    "dateutil",
    "markdown",
    "tornado",
    "six",
    "typing_extensions",
    "zipp",
    "certifi",
)

HARNESS = """
import builtins, importlib, importlib.abc, sys, tempfile
from joulemeter.frameworks import calls, imports
from joulemeter.recorder import Recorder
names, rest = sys.argv[1].split(","), sys.argv[2:]
recorder = Recorder(tempfile.mkdtemp())
judge = calls.Judge(recorder, ("json", "re", "textwrap"))
said = []
sources = imports.Sources(judge, recorder.gates(judge, calls.special()), said.append)
sys.meta_path.insert(0, imports.Finder(sources, (), names))
"""
IMPORT = """
import pkgutil
for name in names:
    package = importlib.import_module(name)
    for each in pkgutil.walk_packages(getattr(package, "__path__", []), name + "."):
        if "test" in each.name or "__main__" in each.name:
            continue
        try:
            importlib.import_module(each.name)
        except (ImportError, AssertionError, AttributeError, RuntimeError, OSError, SystemExit) as error:
            print("not imported:", each.name, type(error).__name__)
gated = sum(isinstance(getattr(m.__spec__, "loader", None), imports.Loader) for m in list(sys.modules.values()) if getattr(m, "__spec__", None))
print("modules", len([m for m in sys.modules if m.partition(".")[0] in names]), "rewritten", gated, "unmetered", len(said))
"""
BARE = 'import sys, importlib, pkgutil\nnames, rest = sys.argv[1].split(","), sys.argv[2:]\nclass imports: Loader = ()\nsaid = []\n'
TEST = "import unittest, warnings\nsys.argv = ['x']\nunittest.main(module=importlib.import_module(names[0]), argv=['x', '-q'])\n"


def run(code: str, *arguments: str, folder: str | None = None) -> tuple[int, str]:
    command = [sys.executable, "-c", code, *arguments]
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder or empty,
            timeout=900,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    return done.returncode, done.stdout + "\n--- errors\n" + done.stderr


def summary(text: str) -> str:
    """What a unittest or pytest run says at its end, without times."""
    ran = re.findall(r"^Ran (\d+) tests?", text, re.M)
    ends = re.findall(r"^(?:OK.*|FAILED \(.*|(?:=+ )?\d+ (?:passed|failed).*)$", text, re.M)
    last = re.sub(r" in [\d.]+s.*", "", ends[-1]) if ends else text[-300:]
    return (f"{ran[0]} tests, " if ran else "") + last


def failures(text: str) -> set[str]:
    """The tests that failed, without addresses."""
    return {
        re.sub(r"0x[0-9a-f]+| - .*", "", name)
        for name in re.findall(r"^(?:FAILED|FAIL:|ERROR:?) (.*)$", text, re.M)
    }


def language() -> bool:
    """Python's own tests of its language."""
    print("| Python's test | alone | rewritten |\n|---|---|---|")
    fine = True
    for name in LANGUAGE:
        module = f"test.{name}"
        if importlib.util.find_spec(module) is None:
            continue
        alone = run(BARE + TEST, module)
        rewritten = run(HARNESS + TEST, module)
        fine &= alone[0] == rewritten[0] and summary(alone[1]) == summary(rewritten[1])
        print(f"| {name} | {summary(alone[1])} | {summary(rewritten[1])} |", flush=True)
        if summary(alone[1]) != summary(rewritten[1]):
            sys.stderr.write(f"--- {name}\n{rewritten[1][-3000:]}\n")
    return fine


def packages() -> bool:
    """Pure Python packages, every module of them imported."""
    print("| package | modules | rewritten | ends alike |\n|---|---|---|---|")
    fine = True
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            continue
        alone, rewritten = run(BARE + IMPORT, name), run(HARNESS + IMPORT, name)
        strip = re.compile(r" rewritten \d+ .*", re.S)
        alike = alone[0] == rewritten[0] == 0 and strip.sub("", alone[1]) == strip.sub("", rewritten[1])
        counts = re.search(r"modules (\d+) rewritten (\d+) unmetered (\d+)", rewritten[1])
        fine &= alike and counts is not None and counts[3] == "0"
        print(
            f"| {name} | {counts and counts[1]} | {counts and counts[2]} | {'yes' if alike else 'NO'} |",
            flush=True,
        )
        if not alike:
            sys.stderr.write(f"--- {name}\n{alone[1][-800:]}\n+++\n{rewritten[1][-1500:]}\n")
    return fine


def suite(folder: str) -> bool:
    """A whole test suite, package and tests rewritten."""
    source = Path(folder, "src")
    names = [
        each.name
        for each in (source if source.exists() else Path(folder)).iterdir()
        if (each / "__init__.py").exists()
    ]
    tests = [path.stem for path in Path(folder, "tests").glob("*.py")]
    start = f"sys.path[:0] = [{str(source)!r}, {folder!r}, {folder + '/tests'!r}]\nimport pytest\n"
    ask = "sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', '-p', 'no:joulemeter', '--assert=plain', '--import-mode=importlib', 'tests', *rest]))\n"
    everything = ",".join([*names, *tests, "tests"])
    alone = run(BARE + start + ask, everything, folder=folder)
    rewritten = run(HARNESS + start + ask, everything, folder=folder)
    print(f"| {Path(folder).name} | {summary(alone[1])} | {summary(rewritten[1])} |")
    sys.stderr.write(f"failed alone only: {failures(alone[1]) - failures(rewritten[1])}\n")
    sys.stderr.write(f"failed rewritten only: {failures(rewritten[1]) - failures(alone[1])}\n")
    if summary(alone[1]) != summary(rewritten[1]):
        sys.stderr.write(f"{alone[1][-1500:]}\n+++\n{rewritten[1][-3000:]}\n")
    return summary(alone[1]) == summary(rewritten[1])


def main() -> None:
    """Runs what is named, or the first two; exits 1 where something ends otherwise than alone."""
    wanted = sys.argv[1:] or ["python", "packages"]
    results = []
    if "python" in wanted:
        results.append(language())
    if "packages" in wanted:
        results.append(packages())
    if "suite" in wanted:
        results.append(suite(os.path.abspath(wanted[wanted.index("suite") + 1])))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
