"""`joulemeter run`, as a user would: whatever happens to the script, the folder can be read and the status is the script's."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from joulemeter.run import load

JOULEMETER = [sys.executable, "-m", "joulemeter"]
QUICK = ["--source", "simulated:load=constant", "--idle", "0"]


def start(folder: Path, *program: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*JOULEMETER, "run", *QUICK, *options, "-o", "run", *program]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def with_mounts(folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """A shell's commands, with mounts that nobody else sees."""
    words = ["unshare", "-m", "sh", "-c", commands]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True, timeout=120)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def script(folder: Path, text: str) -> str:
    (folder / "script.py").write_text(text)
    return "script.py"


def metered(folder: Path, text: str, *arguments: str) -> tuple[int, str, str]:
    return finish(start(folder, script(folder, text), *arguments))


def wait_for(path: Path) -> str:
    for _ in range(400):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} was never written")


SLEEPER = "import os, time, pathlib\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)\n"


def test_the_script_keeps_its_arguments_input_output_and_status(tmp_path: Path) -> None:
    text = "import sys\nprint(sys.argv, __name__, input())\nprint('oops', file=sys.stderr)\nsys.exit(3)\n"
    name = script(tmp_path, text)
    command = [*JOULEMETER, "run", *QUICK, "-o", "run", name, "--epochs", "3", "-o", "mine"]
    done = subprocess.run(
        command, cwd=tmp_path, input="hello\n", capture_output=True, text=True, check=False, timeout=60
    )
    plain = subprocess.run(
        [sys.executable, name, "--epochs", "3", "-o", "mine"],
        cwd=tmp_path,
        input="hello\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        (done.returncode, done.stdout)
        == (plain.returncode, plain.stdout)
        == (3, "['script.py', '--epochs', '3', '-o', 'mine'] __main__ hello\n")
    )
    assert "oops" in done.stderr
    assert "Run folder: run" in done.stderr


def test_a_script_that_raises_shows_its_own_traceback(tmp_path: Path) -> None:
    text = "def f():\n    raise ValueError('mine')\n\nf()\n"
    status, _, err = metered(tmp_path, text)
    plain = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert status == plain.returncode == 1
    traceback = err[err.index("Traceback") : err.index("ValueError: mine") + len("ValueError: mine\n")]
    assert re.sub(r'File ".*?script.py"', 'File "script.py"', traceback) == re.sub(
        r'File ".*?script.py"', 'File "script.py"', plain.stderr
    )
    assert not load(tmp_path / "run").interrupted


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_run_as_it_would_end_the_script(tmp_path: Path, name: str) -> None:
    """Sent to `joulemeter run` it reaches the script; the table is still printed; the status is the signal's."""
    process = start(tmp_path, script(tmp_path, SLEEPER))
    wait_for(tmp_path / "pid")
    process.send_signal(getattr(signal, name))
    status, _, err = finish(process)
    assert status == -getattr(signal, name)
    assert "total" in err
    assert load(tmp_path / "run").timelines()[0].total_j > 0
    if name == "SIGINT":
        assert "KeyboardInterrupt" in err


def test_a_script_that_handles_its_signals_still_does(tmp_path: Path) -> None:
    text = (
        "import signal, sys, time, pathlib\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "pathlib.Path('pid').write_text('x')\ntime.sleep(60)\n"
    )
    process = start(tmp_path, script(tmp_path, text))
    wait_for(tmp_path / "pid")
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 7


def test_a_killed_script_leaves_a_readable_interrupted_folder(tmp_path: Path) -> None:
    process = start(tmp_path, script(tmp_path, SLEEPER))
    os.kill(int(wait_for(tmp_path / "pid")), signal.SIGKILL)
    status, _, err = finish(process)
    assert status == -signal.SIGKILL
    assert "interrupted" in err
    back = load(tmp_path / "run")
    assert back.interrupted
    assert len(back.spans) == 1
    assert back.ledger().rails[0].energy.energy_j > 0


def test_killing_the_whole_meter_leaves_what_was_recorded(tmp_path: Path) -> None:
    """`kill -9` of `joulemeter run`: the script goes too, the raw folder is read and marked."""
    process = start(tmp_path, script(tmp_path, SLEEPER))
    child = int(wait_for(tmp_path / "pid"))
    time.sleep(0.3)
    process.kill()
    finish(process)
    time.sleep(0.3)
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]
    report = subprocess.run(
        [*JOULEMETER, "report", "run", "--format", "json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    document = json.loads(report.stdout)
    assert document["interrupted"]
    assert document["rails"][0]["energy_j"] > 0
    assert len(document["sites"]) == 1


def test_if_the_sampler_dies_the_script_goes_on_and_the_gap_is_said(tmp_path: Path) -> None:
    text = (
        "import os, signal, time\nparent = os.getppid()\n"
        "children = open(f'/proc/{parent}/task/{parent}/children').read().split()\n"
        "[os.kill(int(c), signal.SIGKILL) for c in children if int(c) != os.getpid()]\n"
        "time.sleep(0.5)\nprint('done')\n"
    )
    status, out, err = metered(tmp_path, text)
    assert (status, out) == (0, "done\n")
    assert "sampler died" in err
    assert re.search(r"package-0: .* simulated; \d+ ms not seen \(not sampled\)", err)
    (gap,) = load(tmp_path / "run").ledger().rails[0].gaps
    assert gap.end_ns - gap.start_ns > 4e8


def test_a_script_that_leaves_by_the_back_door_is_still_reported(tmp_path: Path) -> None:
    status, _, err = metered(tmp_path, "import os\nos._exit(5)\n")
    assert status == 5
    assert "Run folder" in err


def test_forked_and_spawned_workers_run_as_before(tmp_path: Path) -> None:
    text = (
        "import multiprocessing, os\n\ndef square(x):\n    return x * x\n\nif __name__ == '__main__':\n"
        "    for method in ('fork', 'spawn'):\n"
        "        with multiprocessing.get_context(method).Pool(2) as pool:\n            print(pool.map(square, range(4)))\n"
        "    if os.fork() == 0:\n        raise SystemExit(0)\n    os.wait()\n"
    )
    status, out, _ = metered(tmp_path, text)
    assert (status, out) == (0, "[0, 1, 4, 9]\n" * 2)
    load(tmp_path / "run").ledger().check()


def test_two_runs_at_once_have_a_folder_each(tmp_path: Path) -> None:
    name = script(tmp_path, "print('hi')\n")
    command = [*JOULEMETER, "run", *QUICK, name]
    both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [p.communicate(timeout=60) and p.returncode for p in both] == [0, 0]
    assert {folder.name for folder in tmp_path.glob("joulemeter-run-*")} == {
        "joulemeter-run-1",
        "joulemeter-run-2",
    }


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["run", "none.py"], 2, "none.py: there is no such script"),
        (["run", "--source", "sundial", "x.py"], 2, "there is no source 'sundial'"),
        (["run", "--period", "fast", "x.py"], 2, "'fast' is not a quantity"),
        (["run", "--api", "toch", "x.py"], 2, "the API 'toch' cannot be imported"),
        (["run", "--level", "atom", "x.py"], 2, "there is no level 'atom'"),
        (["run", "-o", "taken", "x.py"], 4, "taken: exists already"),
        (["run", "-o", "taken", "--force", "x.py"], 4, "no run folder"),
        (["run", "-o", "x.py/run", "x.py"], 4, "cannot be made"),
        (["report", "none"], 4, "none: there is no such run folder"),
        (["report", "taken"], 4, "is not a run folder"),
        (["report", "taken", "--format", "smoke"], 2, "'smoke' is not a report format"),
        (["rpeort"], 2, "Did you mean 'report'?"),
    ],
)
def test_a_mistake_is_one_line_with_its_status(
    tmp_path: Path, options: list[str], status: int, message: str
) -> None:
    (tmp_path / "x.py").write_text("")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("")
    done = subprocess.run(
        [*JOULEMETER, *options], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="mounting a small disk needs root and unshare",
)
def test_a_full_disk_is_said_and_the_script_goes_on(tmp_path: Path) -> None:
    """On a disk of 256 KiB the spans of a million calls have no room: the script ends well, the loss is told."""
    text = "import torch_like\nfor i in range(200_000):\n    torch_like.f(i)\nprint('done')\n"
    (tmp_path / "torch_like.py").write_text("def f(x):\n    return x\n")
    script(tmp_path, text)
    (tmp_path / "disk").mkdir()
    run = " ".join(
        [
            *JOULEMETER,
            "run",
            "--api",
            "torch_like",
            "--source",
            "simulated:load=constant",
            "--idle",
            "0",
            "-o",
            "disk/run",
            "script.py",
        ]
    )
    report = " ".join([*JOULEMETER, "report", "disk/run"])
    inside = (
        f"mount -t tmpfs -o size=256k none disk && {{ {run}; echo status $?; {report}; echo status $?; }}"
    )
    done = with_mounts(tmp_path, inside)
    assert done.stdout.startswith("done\nstatus 0\n"), done.stdout + done.stderr
    assert "No space left" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "interrupted" not in done.stdout, "the script ended by itself"


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="mounting a small disk needs root and unshare",
)
def test_a_disk_that_was_full_before_is_refused_in_one_line(tmp_path: Path) -> None:
    script(tmp_path, "print('ran')\n")
    (tmp_path / "disk").mkdir()
    run = " ".join([*JOULEMETER, "run", *QUICK, "-o", "disk/run", "script.py"])
    # Room for folders, and for the header, which is written first; none for what the sampler writes.
    fill = "head -c 8192 /dev/zero > disk/filler"
    inside = f"mount -t tmpfs -o size=12k none disk && {fill} && {run}; echo status $?"
    done = with_mounts(tmp_path, inside)
    assert done.stdout == "status 4\n"
    assert re.fullmatch(r"joulemeter: disk/run: cannot be written \(No space.*\)\. Try: .*\n", done.stderr)


def test_a_second_interrupt_as_the_program_ends_is_not_shown(tmp_path: Path) -> None:
    """Sent to a whole process group, Ctrl-C comes from the sender and once more from the meter."""
    late = (
        "import joulemeter.recorder as r, signal\nclose = r.Recorder.close\n"
        "def interrupted(self):\n    signal.raise_signal(signal.SIGINT)\n    close(self)\n"
        "r.Recorder.close = interrupted\n"
    )
    status, _, err = metered(tmp_path, late)
    assert (status, "Traceback" in err) == (0, False), err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "No call was metered: the program made none to a deep-learning library; --api names others"),
        (("--api", "pathlib"), "No call was metered: the program made none to pathlib."),
        (("--level", "run"), "No call was metered: --level run records the whole program only"),
        (("--api", "json"), None),
    ],
)
def test_a_program_without_a_metered_call_says_why(
    tmp_path: Path, options: tuple[str, ...], said: str | None
) -> None:
    status, _, err = finish(
        start(tmp_path, script(tmp_path, "import json\njson.dumps([1])\n"), options=options)
    )
    assert status == 0
    assert said in err if said else "No call was metered" not in err
