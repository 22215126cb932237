"""The how-tos that cost little: what they tell the reader to type is typed, with a meter and names that are here."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

import guided
from joulemeter import dataset
from joulemeter.errors import SourceUnavailable
from joulemeter.record import Record
from joulemeter.sources import nvml, rapl
from joulemeter.sources.fake_nvml import FakeNvml
from test_sources_contract import powercap_tree

pytestmark = pytest.mark.alone

PAGES = Path(__file__).parents[1] / "docs" / "how-to"


def block(page: str, language: str, place: int = 0) -> str:
    """A code block of a how-to."""
    return [each.text for each in guided.blocks(PAGES / page) if each.language == language][place]


def bash(text: str, folder: Path, **env: str) -> str:
    """What the lines print, run as a script that stops at the first failure."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **env}
    line = ["bash", "-ec", text]
    done = subprocess.run(line, cwd=folder, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def records() -> list[Record]:
    return [
        Record(
            level="kernel",
            family="fc",
            origin="simulated",
            device="cpu-1",
            backend="torch",
            shape={"n": n},
            flops=1e6 * n,
            energy_j=1e-3 * n,
            energy_low_j=0.95e-3 * n,
            energy_high_j=1.05e-3 * n,
            power_w=10.0,
            time_s=1e-4 * n,
        )
        for n in (1, 2, 3, 4)
    ]


def test_a_data_set_is_published_as_the_page_says(tmp_path: Path) -> None:
    dataset.append(tmp_path / "my-machine", records())
    bash(block("publish.md", "text"), tmp_path)
    assert "| kernel | fc | 4 |" in (tmp_path / "my-machine" / "README.md").read_text()
    assert "croissant" in (tmp_path / "my-machine" / "card.json").read_text().lower()
    listed = bash("tar tzf my-machine.tar.gz", tmp_path)
    assert "my-machine/card.json" in listed


def test_a_notebooks_figures_are_kept_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("notebook.md", "python"), "notebook.md", "exec"), {})
    assert "Energy(energy_j=" in capsys.readouterr().out


def test_the_shell_completes_commands_options_and_choices(tmp_path: Path) -> None:
    page = (PAGES / "completion.md").read_text()
    (line,) = re.findall(r"echo '(eval .*bash_source.*)' >> ~/.bashrc", page)
    assert "joulemeter" in bash(f"{line}; complete -p joulemeter", tmp_path)
    for words, wanted in (
        ("joulemeter re", "plain,report"),
        ("joulemeter compare --fo", "plain,--format"),
        ("joulemeter report x --format per", "plain,perfetto"),
    ):
        place = str(words.count(" "))
        done = bash(
            "joulemeter", tmp_path, _JOULEMETER_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place
        )
        assert wanted in done.split()


def test_a_cluster_job_keeps_the_folder_and_the_page_and_the_scripts_status(tmp_path: Path) -> None:
    text = block("cluster-job.md", "bash")
    assert "--source rapl,nvml" in text
    (tmp_path / "train.py").write_text("import sys\nassert sys.argv[1:] == ['--epochs', '30']\n")
    (tmp_path / "node").mkdir()
    job = text.replace("rapl,nvml", "simulated:load=cpu")
    names = {"TMPDIR": str(tmp_path / "node"), "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7"}
    bash(job, tmp_path, **names)
    assert (tmp_path / "run-7" / "run.json").exists()
    assert "<!doctype html>" in (tmp_path / "run-7.html").read_text().lower()


TRAIN = """import sys
import torch
x = torch.ones(300, 300)
for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 400):
    x = torch.relu(torch.mm(x, x)) / 300
"""


def test_two_runs_are_compared_as_the_page_says(tmp_path: Path) -> None:
    """Repeated twice, without rest, under a machine of known power; ``faster`` is a branch that does half."""
    (tmp_path / "train.py").write_text(TRAIN)
    git = "git -c user.name=a -c user.email=a@b.c"
    begin = f"git init -q -b main && git add train.py && {git} commit -qm a && git switch -qc faster"
    bash(f"{begin} && sed -i 's/400/100/' train.py && {git} commit -qam b && git switch -q main", tmp_path)
    lines = block("compare.md", "text")
    lines = lines.replace("--repeat 5 --cooldown 10s", "--repeat 2 --cooldown 0s --source simulated:load=cpu")
    shown = bash(lines + "\n" + block("compare.md", "text", 1), tmp_path)
    (verdict,) = re.findall(r"^total .* (less|more|no difference seen)$", shown, re.MULTILINE)
    assert verdict != "more"
    assert "Origin of both: simulated" in shown
    assert "<!doctype html>" in (tmp_path / "compared.html").read_text().lower()


def test_what_meters_say_is_what_the_page_on_permissions_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each phrase of the page's first column, from the refusal itself; the rest is remedies for a real machine."""
    said = []

    def refused(opened: Callable[[], object]) -> None:
        with pytest.raises(SourceUnavailable) as refusal:
            opened()
        said.append(refusal.value.fact)

    monkeypatch.setattr(rapl, "_text", lambda file: "flags : hypervisor" if "cpuinfo" in str(file) else None)
    monkeypatch.setattr(rapl, "ROOT", str(tmp_path))
    refused(rapl.open)
    monkeypatch.undo()
    tree = powercap_tree(tmp_path, {"intel-rapl:0": ("package-0", 0)})
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    refused(lambda: rapl.open(str(tree)))
    library = FakeNvml([])
    library.errors["nvmlInit"] = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    refused(lambda: nvml.Nvml(library))
    rows = re.findall(r"^\| `…?/?([^`]+)` \|", (PAGES / "permissions.md").read_text(), re.MULTILINE)
    assert len(rows) == 3
    for phrase in rows:
        assert any(phrase in fact for fact in said), phrase
