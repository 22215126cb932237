"""Every command with wrong input: one line with the fact and the remedy, the documented status, no traceback."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from joulemeter import cli, dataset
from joulemeter.cli import command as root
from test_docs import commands

DOCS = Path(__file__).parents[1] / "docs"
TOOL = Path(sys.executable).with_name("joulemeter")


def said(*arguments: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOOL, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with things that are not what they should be."""
    folder = tmp_path_factory.mktemp("walk")
    (folder / "empty").touch()
    (folder / "empty.onnx").touch()
    (folder / "torn.onnx").write_bytes(b"\x08\x0a:\x7fnode")
    (folder / "newer.json").write_text('{"kind": "memory-hierarchy energy model", "schema": 999}')
    (folder / "words.txt").write_text("hello\n")
    (folder / "table.csv").write_text("a,b\n1,2\n")
    (folder / "script.py").write_text("print(1)\n")
    (folder / "folder").mkdir()
    return folder


WRONG = [
    (2, "reprot x", "Did you mean 'report'"),
    (2, "dataset chek x", "Did you mean 'check'"),
    (2, "model advice", "Did you mean 'advise'"),
    (2, "run --outptu x script.py", "Try: --output"),
    (2, "run nowhere.py", "there is no such script"),
    (2, "run --level modul script.py", "one of run, api"),
    (2, "run --source raple script.py", "one of estimate"),
    (3, "run --source rapl:/nowhere script.py", "rapl"),
    (4, "run -o /proc/x script.py", "-o with a writable place"),
    (4, "report nowhere", "joulemeter run -o RUN"),
    (4, "report empty", "a run folder, a data set"),
    (4, "report folder", "no run.json"),
    (2, "report folder --format htm", "html"),
    (2, "compare a b --fail-abov 3", "Did you mean '--fail-above'"),
    (4, "compare nowhere empty", "no such run folder"),
    (5, "dataset check nowhere", "joulemeter bench -o FOLDER"),
    (5, "dataset check empty", "one of: DeepEn2023"),
    (5, "dataset card folder", "joulemeter bench -o FOLDER"),
    (5, "dataset compact nowhere", "joulemeter bench -o FOLDER"),
    (5, "fit table.csv -o p.joules", "one of: DeepEn2023"),
    (5, "evaluate --fit nowhere --test empty", "is not there"),
    (6, "predict empty.onnx --predictor empty", "export it again"),
    (6, "predict nowhere.onnx --predictor empty", "no such file. Try: torn.onnx or empty.onnx$"),
    (6, "predict torn.onnx --predictor empty", "Try: export it again"),
    (6, "predict nowhere.tflite --predictor empty", "no such file. Try: the path of a .tflite file"),
    (6, "predict nowhere.keras --predictor empty", "no such file. Try: the path of a .keras file"),
    (6, "predict nowhere.pt2 --predictor empty", "no such file. Try: the path of a .pt2 file"),
    (2, "predict math:sine --predictor empty", "Try: math:sinh?$"),
    (2, "predict math:sin --input 1,0 --predictor empty", "not above zero. Try: --input 1,3"),
    (2, "predict math:sin --input wide --predictor empty", "not a shape. Try: --input 1,3"),
    (5, "model fit nowhere -o m.json", "joulemeter sweep"),
    (7, "model show empty", "cannot be read.* Try: joulemeter model fit DATASET"),
    (7, "model show newer.json", "schema 999.* Try: pip install --upgrade joulemeter"),
    (5, "qc empty", "the folder of a data set"),
    (2, "sweep nowhere -o s", "one of butter-e"),
    (2, "sweep words.txt -o s", "cannot be read as a plan.* Try: a TOML file, or one of butter-e"),
    (5, "join empty table.csv -o j", "lacks the column"),
    (5, "join table.csv nowhere -o j", "is not there. Try: a CSV or Parquet file"),
    (2, "instrument folder", "the path of a Python script"),
    (2, "score", "joulemeter score --help"),
    (5, "score --table empty", "the heading device"),
    (2, "scale numpy:sort --sizes 1", "--sizes 1000,"),
    (2, "isolate numpy:srot", "Try: numpy:s(or|qr)t"),
    (2, "isolate math:pi", "not a function but a float. Try: MODULE:FUNCTION"),
    (2, "isolate nowhere:f", "run in its folder"),
    (2, "run --api zzzzzz script.py", "Try: install it for this Python"),
    (2, "scale math:sin --sizes 1,2,-3", "a size is not above zero. Try: --sizes 1000"),
    (2, "scale math:sin --sizes 1,2,3 --plot p.pdf", "Try: --plot p.png"),
    (2, "instrument script.py -o nowhere/x.py", "Try: -o with a writable place"),
    (2, "serve --prometheus :99999", "--prometheus :9464"),
    (2, "watch 9999999", "pgrep"),
    (2, "watch --period x", "a number and a unit"),
    (2, "bench -o d --families rleu", "relu"),
]


@pytest.mark.parametrize(("status", "line", "remedy"), WRONG, ids=[line for _, line, _ in WRONG])
def test_wrong_input_is_one_line_with_the_remedy_and_its_status(
    place, monkeypatch, status, line, remedy
) -> None:
    from joulemeter import cli

    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["joulemeter", *line.split()])
    before = sorted(place.iterdir())
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    out = CliRunner()
    with out.isolation() as streams, pytest.raises(SystemExit) as ended:
        cli.main()
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    text = "".join(stream.getvalue().decode() for stream in streams[:2])
    assert ended.value.code == status, text
    assert re.search(remedy, text, re.MULTILINE), text
    for each in re.findall(r"^joulemeter: .*", text, re.MULTILINE):
        assert each.count(". Try: ") == 1, each
    assert "Traceback" not in text
    assert sorted(place.iterdir()) == before


def test_the_page_of_statuses_has_each_that_the_code_knows() -> None:
    from joulemeter import errors

    kinds = [
        k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.JoulemeterError)
    ]
    page = (DOCS / "exit-statuses.md").read_text(encoding="utf-8")
    listed = {int(found) for found in re.findall(r"^\| (\d+) \|", page, re.M)}
    assert {kind.exit_status for kind in kinds} | {0, 10, 130, 141} == listed


@pytest.mark.parametrize("each", commands(), ids=lambda c: str(c.name))
def test_help_teaches_by_example(each: click.Command) -> None:
    assert "joulemeter " in str(each.help)


def test_bench_lists_what_it_knows_and_needs_no_folder(monkeypatch) -> None:
    done = CliRunner().invoke(root, ["bench", "--list"])
    assert done.exit_code == 0
    assert "families: adam" in done.output


def test_a_pipe_and_no_color_get_no_colours(place) -> None:
    for environment in ({}, {"NO_COLOR": "1"}):
        done = said(
            "run",
            "--source",
            "simulated:load=constant",
            "-o",
            "r",
            "--force",
            "script.py",
            cwd=place,
            **environment,
        )
        assert "\x1b" not in done.stdout + done.stderr
    pty = said_on_a_terminal(f"NO_COLOR=1 {TOOL} report r", place)
    assert "\x1b[3" not in pty
    assert "\x1b[1;3" not in pty


def said_on_a_terminal(line: str, folder: Path) -> str:
    pexpect = pytest.importorskip("pexpect")
    return str(
        pexpect.run(
            f"bash -c '{line}'",
            cwd=str(folder),
            encoding="utf-8",
            env={**os.environ, "TERM": "xterm-256color"},
        )
    )


LONG = [
    ["bench", "--budget", "60s", "--families", "relu", "--models", "none", "-o", "machine"],
    ["isolate", "time:sleep", "--args", "0.001", "--limit", "60s"],
    [
        "scale",
        "numpy:sort",
        "--setup",
        "import numpy",
        "--args",
        "numpy.random.rand(n)",
        "--sizes",
        "1e4,2e4,4e4",
    ],
    ["watch", "--period", "100ms"],
]


def test_ctrl_c_ends_a_long_command_with_130_and_leaves_its_data_sound(tmp_path) -> None:
    running = [
        subprocess.Popen(
            [TOOL, *words, "--source", "simulated:load=cpu"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for words in LONG
    ]
    time.sleep(8)
    for each in running:
        each.send_signal(signal.SIGINT)
    for words, each in zip(LONG, running, strict=True):
        _, err = each.communicate(timeout=60)
        assert (each.returncode, "Traceback" in err) == (130, False), (words, err)
    if dataset.is_dataset(tmp_path / "machine"):
        assert all(r.energy_j > 0 for r in dataset.read(tmp_path / "machine").records)


# ── completion, in the shells themselves ─────────────────────────────────────────────────────────────


def typed(shell: list[str], start: list[str], line: str, expected: str) -> bool:
    """Whether an interactive shell that has run ``start`` shows ``expected`` after ``line`` and a tab."""
    pexpect = pytest.importorskip("pexpect")
    environment = {**os.environ, "PATH": f"{TOOL.parent}:{os.environ['PATH']}", "TERM": "dumb"}
    with pexpect.spawn(shell[0], shell[1:], encoding="utf-8", timeout=30, env=environment) as opened:
        for each in start:
            opened.sendline(each)
        opened.sendline("echo rea''dy")
        opened.expect("ready")
        opened.send(line + "\t")
        shown = opened.expect([re.escape(expected), pexpect.TIMEOUT, pexpect.EOF])
        opened.sendcontrol("c")
    return shown == 0


@pytest.mark.parametrize(
    ("line", "expected"), [("joulemeter compa", "compare"), ("joulemeter compare --fai", "--fail-above")]
)
def test_bash_completes_commands_and_options(line, expected) -> None:
    if shutil.which("bash") is None:
        pytest.skip("no bash is installed")
    start = ['eval "$(_JOULEMETER_COMPLETE=bash_source joulemeter)"']
    assert typed(["bash", "--norc"], start, line, expected)


def test_zsh_completes_commands() -> None:
    if shutil.which("zsh") is None:
        pytest.skip("no zsh is installed")
    start = ["autoload -U compinit; compinit -u", 'eval "$(_JOULEMETER_COMPLETE=zsh_source joulemeter)"']
    assert typed(["zsh", "-f"], start, "joulemeter compa", "compare")


def test_fish_completes_commands_and_options(tmp_path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish is installed")
    source = "_JOULEMETER_COMPLETE=fish_source joulemeter | source; complete -C 'joulemeter compare --fai'"
    environment = {**os.environ, "PATH": f"{TOOL.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["fish", "--no-config", "-c", source], capture_output=True, text=True, check=True, env=environment
    )
    assert "--fail-above" in done.stdout


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("onnx", "predict"),
        ("sklearn.ensemble", "predict"),
        ("polars", "sweep"),
        ("dask", "sweep"),
        ("json", ""),
        ("opentelemetry.sdk", "otel"),
    ],
)
def test_a_package_that_is_not_installed_is_one_line_with_its_extra(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(**_: object) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(cli.command, "main", lacking)
    with pytest.raises(SystemExit if extra else ModuleNotFoundError) as ended:
        cli.main()
    if extra:
        assert ended.value.code == 1
        assert (
            f"needs {module}, which is not installed. Try: pip install 'joulemeter[{extra}]'"
            in capsys.readouterr().err
        )
