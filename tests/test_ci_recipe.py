"""The GitHub Actions recipe: its steps run as GitHub runs them, on a base and a branch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import guided

pytestmark = pytest.mark.alone

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "github-actions.md"
WORK = "import numpy\nx = numpy.ones((400, 400))\nfor _ in range({}):\n    x @ x\n"


def workflow() -> dict:
    (block,) = (each for each in guided.blocks(PAGE) if each.title.endswith("energy.yml"))
    return yaml.safe_load(block.text)


def steps() -> list[dict]:
    (job,) = workflow()["jobs"].values()
    return job["steps"]


def run_steps(folder: Path, **env: str) -> tuple[int, str]:
    """The status of the first step that fails (0: none), and the summary; shell and flags are GitHub's."""
    summary = folder / "summary.md"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {key: str(value) for key, value in workflow()["env"].items()}
    whole = {**os.environ, **given, "PATH": path, "GITHUB_STEP_SUMMARY": str(summary), **env}
    for step in steps():
        if "run" in step:
            line = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
            done = subprocess.run(line, cwd=folder, env=whole, capture_output=True, text=True, check=False)
            if done.returncode:
                said = summary.read_text() if summary.exists() else done.stderr
                return done.returncode, said
    return 0, summary.read_text()


def checked_out(folder: Path, main: int, branch: int) -> None:
    """What the two checkouts leave."""
    for name, rounds in (("main", main), ("branch", branch)):
        (folder / name).mkdir()
        (folder / name / "benchmark.py").write_text(WORK.format(rounds))
        (folder / name / "requirements.txt").write_text("numpy\n")


def test_the_workflow_is_one_that_github_would_take() -> None:
    flow = workflow()
    assert flow["defaults"]["run"]["shell"] == "bash"
    assert flow[True] == "pull_request"  # "on" is a boolean in YAML 1.1, for GitHub the trigger
    assert all(("uses" in step) != ("run" in step) for step in steps())


@pytest.mark.parametrize(("main", "branch", "status"), [(30, 300, 10), (300, 30, 0)])
def test_a_branch_fails_where_it_surely_takes_more(tmp_path, main, branch, status) -> None:
    checked_out(tmp_path, main, branch)
    ended, summary = run_steps(tmp_path, METERS="simulated:load=cpu", REPEAT="3", OMP_NUM_THREADS="1")
    assert ended == status, summary
    more = "more" if status else "less"
    assert summary.startswith(f"### Energy, simulated: B takes {more} than A")
    assert "| **total** |" in summary
    assert ("**B takes more than 3 % over A.**" in summary) == bool(status)
