"""A launched program cannot tell that it is: streams, statuses, signals, frames and ``__main__`` are its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipapp
from pathlib import Path

import pytest

from joulemeter import launch, spawned
from joulemeter.errors import UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and signals")
CLEAN = {"PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


def run(command: list[str], folder: Path, text: str = "") -> tuple[int, str, str]:
    done = subprocess.run(
        command, cwd=folder, input=text, capture_output=True, text=True, timeout=120, check=False, env=CLEAN
    )
    return done.returncode, done.stdout, done.stderr


def both(
    folder: Path, *arguments: str, text: str = "", options: tuple[str, ...] = ()
) -> tuple[int, str, str]:
    """What the program does, asserted to be the same with and without the launcher."""
    raw = str(folder / "raw")
    bare = run([sys.executable, *arguments], folder, text)
    seen = run([sys.executable, "-m", "joulemeter.launch", "--raw", raw, *options, *arguments], folder, text)
    assert seen == bare
    return seen


def script(folder: Path, source: str, name: str = "script.py") -> str:
    (folder / name).write_text(textwrap.dedent(source))
    return name


def sites(folder: Path) -> list[dict[str, object]]:
    """The sites of the launched process itself (the first to write)."""
    found = sorted((folder / "raw").glob("sites-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    every = [json.loads(line) for path in found for line in path.read_text().splitlines()]
    return [line for line in every if "id" in line]


PROGRAMS = {
    "argv, path and main": """
        import sys, os
        print(sys.argv, sys.path[0], sys.orig_argv[1:], __name__, __file__, __spec__, __package__, __doc__)
        print(list(globals()), type(__loader__).__name__, __builtins__.__name__, __annotations__, __cached__)
        print(sys.modules["__main__"].__dict__ is globals(), sys.excepthook is sys.__excepthook__)
    """,
    "standard input": "import sys; print(sys.stdin.read().upper(), input.__name__)",
    "exit status 3": "import sys; print('bye'); sys.exit(3)",
    "exit with a message": "import sys; sys.exit('the message')",
    "exit with None": "raise SystemExit",
    "os._exit": "import os; os._exit(4)",
    "uncaught error": """
        import math
        def g(x):
            return math.sqrt(x)
        try:
            g('a')
        except TypeError:
            g(-1)
    """,
    "error in a chain of causes": "try: 1/0\nexcept Exception as e: raise ValueError('second') from e",
    "error of a group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])",
    "syntax error": "x = (1,\nprint(2\n",
    "syntax error of the compiler": "def g():\n    x = 1\nreturn 2\n",
    "bad indentation": "if 1:\nx = 1\n",
    "null byte": "x = 1\0\n",
    "syntax warning": "x = 1\nprint(x is 1)\nassert (x, 'm')\n",
    "own excepthook": """
        import sys
        sys.excepthook = lambda kind, error, trace: print('hook', kind.__name__, error, trace.tb_lineno)
        raise ValueError('v')
    """,
    "broken excepthook": """
        import sys
        def hook(*_): raise KeyError('broken')
        sys.excepthook = hook
        raise ValueError('v')
    """,
    "recursion error": "def g(n): return g(n + 1)\ntry: g(0)\nexcept RecursionError as e: print(e)",
    "frames": """
        import inspect, sys, traceback
        def g(): return [(f.function, f.lineno) for f in inspect.stack()]
        print(g(), sys._getframe().f_back)
        traceback.print_stack()
    """,
    "warnings": "import warnings\nwarnings.warn('deep', stacklevel=9)\nwarnings.warn('here')\nprint(warnings.filters)",
    "atexit and threads": """
        import atexit, threading, time
        atexit.register(print, 'atexit')
        threading.Thread(target=lambda: (time.sleep(.2), print('thread'))).start()
        print('main')
    """,
    "last words": "class A:\n    def __del__(self): print('del')\na = A()\n",
    "pickle of its own": """
        import pickle, copy
        def g(x): return x + 1
        class A:
            def __init__(self): self.v = 2
        print(pickle.loads(pickle.dumps(g))(1), pickle.loads(pickle.dumps(A())).v, g.__module__, A.__qualname__)
        print(pickle.dumps(g))
    """,
    "fork": """
        import os
        print('before', flush=True)
        pid = os.fork()
        if pid == 0:
            print('child', flush=True)
            os._exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """,
    "multiprocessing by fork and spawn": """
        import multiprocessing as mp
        def square(x): return x * x
        if __name__ == '__main__':
            for method in ('fork', 'spawn', 'forkserver'):
                with mp.get_context(method).Pool(1) as pool: print(method, pool.map(square, [1, 2, 3]))
    """,
    "process pool": """
        import concurrent.futures as c
        def square(x): return x * x
        if __name__ == '__main__':
            with c.ProcessPoolExecutor(1) as pool: print(list(pool.map(square, [1, 2, 3])))
    """,
    "subprocess": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1 + 1)'])",
    "killed by a signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "keyboard interrupt": "def g(): raise KeyboardInterrupt\ng()",
    "own signal handler": """
        import os, signal
        signal.signal(signal.SIGINT, lambda *_: print('handled'))
        os.kill(os.getpid(), signal.SIGINT)
    """,
    "encoding cookie": None,
    "source of its own": "import inspect\ndef g(x):\n    return len(x)\nprint(inspect.getsource(g), g('abc'))",
    "doc and future": "'the doc'\nfrom __future__ import annotations\nx: len(3) = 1\nprint(__doc__, __annotations__)",
    "asyncio": "import asyncio\nasync def main(): await asyncio.sleep(0); print('done')\nasyncio.run(main())",
    "flags and path of modules": "import sys\nprint(sys.flags, [p for p in sys.path], sys.warnoptions)",
    "json beside it": "import json_like, sys\nprint(json_like.__file__ == sys.path[0] + '/json_like.py', json_like.__cached__)",
    "descriptors": "import os\nprint(os.open('/dev/null', os.O_RDONLY))\nos.closerange(3, 200)\nprint(len('x'))",
    "trace function": """
        import sys
        seen = []
        def trace(frame, event, _):
            if frame.f_code.co_filename == __file__: seen.append((frame.f_lineno - frame.f_code.co_firstlineno, event))
            return trace
        def g(a):
            b = len(a)
            for c in sorted(a):
                b += (int(c)
                      .bit_length())
            return b
        sys.settrace(trace)
        g('312')
        sys.settrace(None)
        print(seen)
    """,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_as_it_does_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "json_like.py").write_text("x = len('abc')\n")
    source = PROGRAMS[name]
    if source is None:
        text = "# -*- coding: latin-1 -*-\nprint(ascii('h\xe4'), len('\xe4'))\nraise ValueError('\xfc')\n"
        (tmp_path / "script.py").write_bytes(text.encode("latin-1"))
    else:
        script(tmp_path, source)
    if name in {"frames", "warnings"}:
        pytest.importorskip("joulemeter._recorder")
    both(tmp_path, "script.py", "one", "--two", text="typed")


def test_statuses_are_what_they_are_expected_to_be(tmp_path: Path) -> None:
    expected = {"exit status 3": 3, "uncaught error": 1, "os._exit": 4, "killed by a signal": -signal.SIGTERM}
    expected["keyboard interrupt"] = -signal.SIGINT
    for name, status in expected.items():
        script(tmp_path, PROGRAMS[name] or "")
        assert both(tmp_path, "script.py")[0] == status, name


def test_dash_c_dash_m_folders_and_zipapps_run_as_they_do_alone(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from .side import *\n")
    (package / "side.py").write_text("def f(x): return len(x)\n")
    (package / "inner" / "__init__.py").write_text("from ..side import f\nfrom . import leaf\n")
    (package / "inner" / "leaf.py").write_text("from .. import f as g\nvalue = g('abc')\n")
    (package / "__main__.py").write_text(
        "import sys\nfrom .inner.leaf import value\n"
        "print(sys.argv[1:], sys.argv[0][-20:], __package__, __spec__.name, value)\n1/0\n"
    )
    code = "import sys; print(sys.argv, sys.path[0], __name__, list(globals())); 1/0"
    assert both(tmp_path, "-c", code, "a")[0] == 1
    assert both(tmp_path, "-m", "package", "a", "b")[0] == 1
    assert both(tmp_path, "-m", "package.inner.leaf", "a")[0] == 0
    assert both(tmp_path, "-m", "no_such_module")[0] == 1
    application = tmp_path / "app"
    application.mkdir()
    (application / "__main__.py").write_text(
        "import sys, other\nprint(sys.argv, __name__, other.x)\nother.f()\n"
    )
    (application / "other.py").write_text("x = len('ab')\ndef f(): raise ValueError(x)\n")
    assert both(tmp_path, "app", "a")[0] == 1
    zipapp.create_archive(application, tmp_path / "app.pyz")
    assert both(tmp_path, "app.pyz", "a")[0] == 1


def test_api_calls_are_recorded_with_their_place(tmp_path: Path) -> None:
    script(tmp_path, "import json\ndef g():\n    return json.loads(json.dumps([1]))\nprint(g())\n")
    both(tmp_path, "script.py", options=("--api", "json"))
    found = {(s["name"], s["kind"], s["line"], s["column"], s["function"]) for s in sites(tmp_path)}
    assert ("json.loads", "call", 3, 11, "g") in found
    assert ("json.dumps", "call", 3, 22, "g") in found
    assert ("script.py", "run", 0, 0, "") in found


def launched(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """What a launched program does where Python may leave things behind."""
    command = [sys.executable, "-m", "joulemeter.launch", "--raw", str(folder / "raw"), *arguments]
    env = {"PATH": CLEAN["PATH"], "HOME": str(folder), **environment}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False, env=env
    )
    return done.returncode, done.stdout, done.stderr


def test_the_script_is_compiled_once_and_read_from_the_cache_after_that(tmp_path: Path) -> None:
    script(tmp_path, "import json\nprint(json.dumps([1]))\n")
    first = launched(tmp_path, "--api", "json", "script.py")
    (entry,) = (tmp_path / ".cache" / "joulemeter" / "code").iterdir()
    written = entry.stat()
    assert launched(tmp_path, "--api", "json", "script.py") == first == (0, "[1]\n", "")
    assert (entry.stat().st_mtime_ns, entry.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    assert sum(site["name"] == "json.dumps" for site in sites(tmp_path)) == 2
    entry.chmod(0o666)
    script(tmp_path, "import json\nprint(json.dumps([2]))\n")
    assert launched(tmp_path, "--api", "json", "script.py")[1] == "[2]\n", "another text, another entry"


def test_a_script_that_earns_warnings_earns_them_at_every_start(tmp_path: Path) -> None:
    script(tmp_path, "x = 1\nprint(x is 1, '\\d')\n")
    first = launched(tmp_path, "script.py")
    assert "SyntaxWarning" in first[2]
    assert launched(tmp_path, "script.py") == first
    assert "SyntaxWarning" not in launched(tmp_path, "script.py", PYTHONWARNINGS="ignore")[2]
    assert launched(tmp_path, "script.py") == first, "a run that was told to be quiet leaves no quiet entry"
    assert not list((tmp_path / ".cache" / "joulemeter" / "code").iterdir())


def test_a_home_that_is_no_place_leaves_no_cache(tmp_path: Path) -> None:
    script(tmp_path, "print(1)\n")
    assert launched(tmp_path, "script.py", XDG_CACHE_HOME="here")[:2] == (0, "1\n")
    assert not (tmp_path / "here").exists()


SPAWNS = """
    import json, multiprocessing as mp, os, sys
    from helper import helped
    def work(x):
        return json.dumps([x]), helped(x), sys.argv, sys.orig_argv[-2][:40], __name__, work.__module__
    def fail(x): return json.loads("nonsense")
    def grand(x):
        with mp.get_context("spawn").Pool(1) as pool: return pool.map(work, [x])
    if __name__ == "__main__":
        for method in ("spawn", "forkserver"):
            context = mp.get_context(method)
            with context.Pool(1) as pool: print(method, pool.map(work, [1, 2]))
            child = context.Process(target=fail, args=(1,))
            child.start(); child.join()
            print(child.exitcode)
        with context.Pool(1) as pool: print(list(sys.modules["__main__"].__dict__)[:8])
        import concurrent.futures as c
        with c.ProcessPoolExecutor(1, context) as pool: print(pool.submit(grand, 3).result())
"""


def test_children_that_are_spawned_are_metered_and_notice_nothing(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import json\ndef helped(x): return json.dumps({'x': x})\n")
    script(tmp_path, SPAWNS)
    status, _, errors = both(tmp_path, "script.py", options=("--api", "json"))
    assert status == 0
    assert "JSONDecodeError" in errors
    processes = [path.read_text() for path in (tmp_path / "raw").glob("sites-*.jsonl")]
    assert sum('"json.dumps"' in text and "helper.py" in text and '"work"' in text for text in processes) >= 3
    assert any('"json.loads"' in text for text in processes)


def test_other_interpreters_and_other_lines_are_left_alone() -> None:
    plan = launch.Plan("raw", "script", "x.py")
    line = spawned.SPAWN + "; spawn_main()"
    for path, args in [
        ("/other/python", ["python", "-c", line]),
        (sys.executable, [sys.executable, "-c", "from multiprocessing.resource_tracker import main;main(3)"]),
        (sys.executable, [sys.executable, "-m", "loky"]),
    ]:
        assert spawned.with_ours(path, args, plan, []) is args
    ours = spawned.with_ours(os.fsencode(sys.executable), [sys.executable, "-c", line, "--x"], plan, [])
    assert ours[2].endswith(line)
    assert "\n" not in ours[2]
    assert ours[3] == "--x"


def test_a_child_whose_folder_is_gone_runs_as_it_would_have(tmp_path: Path) -> None:
    told = {"raw": "/proc/no/folder", "kind": "script", "program": "x.py"}
    plan = launch.Plan(**told)  # type: ignore[arg-type]
    child = "import sys; print(sys.orig_argv[-1])"
    line = spawned.with_ours(sys.executable, [sys.executable, "-c", spawned.SPAWN], plan, [])[2]
    line = line.removesuffix(spawned.SPAWN) + child
    assert run([sys.executable, "-c", line], tmp_path) == (0, child + "\n", "")


def test_modules_beside_the_script_are_rewritten_and_libraries_are_not(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("import json\ndef h(): return json.dumps(1)\n")
    script(tmp_path, "import helper, csv\nprint(helper.h(), helper.__file__[-9:], helper.__loader__.name)\n")
    both(tmp_path, "script.py", options=("--api", "json"))
    assert ("json.dumps", str(tmp_path / "helper.py")) in {(s["name"], s["file"]) for s in sites(tmp_path)}


def test_modules_that_fail_fail_as_they_do_alone(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def h(:\n")
    script(tmp_path, "try: import helper\nexcept SyntaxError as e: print(e)\nimport helper\n")
    assert both(tmp_path, "script.py")[0] == 1
    (tmp_path / "helper.py").write_text("import sys\ndef h(): return 1/0\nh()\n")
    assert both(tmp_path, "script.py")[0] == 1


def test_a_source_that_cannot_be_rewritten_runs_unmetered_and_is_named(tmp_path: Path) -> None:
    # Python's parser takes this depth; the trees that are handed to its compiler may not be that deep.
    deep = "x = " + "+".join(["1"] * 20) + "\nprint(x, '\\0joulemeter gate 1'[1:])\n"
    script(tmp_path, deep.replace("\\0", "\\x00"))
    command = [sys.executable, "-m", "joulemeter.launch", "--raw", str(tmp_path / "raw"), "script.py"]
    status, printed, said = run(command, tmp_path)
    assert (status, printed) == (0, "20 joulemeter gate 1\n")
    assert "script.py runs unmetered: ValueError: it holds the text that marks gates" in said


def test_notebooks_run_cell_by_cell_with_cell_numbers_for_lines(tmp_path: Path) -> None:
    def cell(source: str, kind: str = "code") -> dict[str, object]:
        return {"cell_type": kind, "source": source.splitlines(keepends=True), "metadata": {}}

    magics = "%matplotlib inline\n!ls\nx = 7 \\\n % 4\nprint(x)"
    cells = [
        cell("# title", "markdown"),
        cell("import json\nv = json.dumps(1)"),
        cell(magics),
        cell("%%bash\nls"),
        cell("print(v)\n\n1/0"),
    ]
    (tmp_path / "n.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    command = [
        sys.executable,
        "-m",
        "joulemeter.launch",
        "--raw",
        str(tmp_path / "raw"),
        "--api",
        "json",
        "n.ipynb",
    ]
    status, printed, said = run(command, tmp_path)
    assert (status, printed) == (1, "3\n1\n")
    assert 'n.ipynb, cell 5", line 3, in <module>\n    1/0\n' in said
    assert "cell 3: %matplotlib inline is left out" in said
    assert "cell 4: %%bash is left out" in said
    (site,) = [s for s in sites(tmp_path) if s["name"] == "json.dumps"]
    assert (site["file"], site["line"], site["function"]) == (str(tmp_path / "n.ipynb"), 2, "<cell>, line 2")


def test_what_is_not_a_notebook_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "n.ipynb").write_text("[]")
    command = [sys.executable, "-m", "joulemeter.launch", "--raw", str(tmp_path / "raw"), "n.ipynb"]
    status, _, said = run(command, tmp_path)
    assert status == UsageError.exit_status
    assert said.startswith("joulemeter: ")
    assert said.count("\n") == 1


def test_sigint_interrupts_the_program_as_it_does_alone(tmp_path: Path) -> None:
    script(tmp_path, "import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    outcomes = []
    for launcher in ([], ["-m", "joulemeter.launch", "--raw", str(tmp_path / "raw")]):
        process = subprocess.Popen(
            [sys.executable, *launcher, "script.py"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        outcomes.append((process.wait(30), process.communicate()[1]))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] == -signal.SIGINT


def test_an_api_that_cannot_be_imported_is_named_with_near_matches() -> None:
    with pytest.raises(UsageError, match=r"there is no package 'nunpy'.*Try: .*numpy"):
        launch.check_apis(("nunpy.linalg",))
    with pytest.raises(UsageError, match=r"there is no package 'zzzzzz'\. Try: install it"):
        launch.check_apis(("zzzzzz.linalg",))
    launch.check_apis(("numpy.linalg", "json"))


def test_an_api_that_leads_nowhere_in_its_library_is_told_at_the_end(tmp_path: Path) -> None:
    script(tmp_path, "import json\nprint(json.dumps([1]))\n")
    apis = "json.dumpz,json.decoder,json.encoder.c_make_encoder,json.tool,os.paths.join,wave.opn,curses.pannel,wave"
    status, out, err = launched(tmp_path, "--api", apis, "script.py")
    assert (status, out) == (0, "[1]\n")
    assert err.splitlines() == [
        "joulemeter: the API 'json.dumpz' was not metered: there is no 'dumpz' in json. Try: json.dump",
        "joulemeter: the API 'os.paths.join' was not metered: there is no 'paths' in os. Try: os.path.join",
        "joulemeter: the API 'wave.opn' was not metered: the program did not import wave",
        "joulemeter: the API 'curses.pannel' was not metered: the program did not import curses. Try: curses.panel",
    ], "what was not loaded is known by its modules alone"


@pytest.mark.parametrize("arguments", [[], ["--raw"], ["--raw", "r"], ["--raw", "r", "-m"], ["x.py"]])
def test_a_command_line_that_asks_for_nothing_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        launch.parse(arguments)


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(UsageError, match="no level 'layer'"):
        launch.parse(["--raw", "r", "--level", "layer", "x.py"])


def test_options_after_the_script_are_the_scripts_own() -> None:
    plan = launch.parse(["--raw", "r", "--api", "a,b", "--level", "api,module", "x.py", "--raw", "q", "-m"])
    assert (plan.program, plan.arguments, plan.apis, plan.levels) == (
        "x.py",
        ("--raw", "q", "-m"),
        ("a", "b"),
        ("api", "module"),
    )
