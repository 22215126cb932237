"""Real programs run alone and launched: the same output, exit status and, for their own lines, errors.

    python benchmarks/programs.py [NAME…]

Runs each of ``tests/programs`` twice and prints a table: whether both outputs are the same byte for byte,
how many API sites and spans were recorded, and the wall time of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = Path(__file__).parents[1] / "tests" / "programs"
RANKED = {"data_parallel"}
"""Programs that torchrun starts, as ``tests/test_ranks.py`` does: alone they have no rank."""


def timed(command: list[str]) -> tuple[float, int, str, str]:
    """Seconds, exit status, output, errors."""
    before = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return time.perf_counter() - before, done.returncode, done.stdout, done.stderr


def recorded(raw: Path) -> tuple[int, int]:
    """How many sites of calls, and how many spans."""
    sites = {
        (site["name"], site["file"], site["line"], site["column"])
        for path in raw.glob("sites-*.jsonl")
        for site in map(json.loads, path.read_text().splitlines())
        if site.get("kind") == "call"
    }
    return len(sites), sum(path.stat().st_size for path in raw.glob("lane-*.bin")) // 32


def compare(program: Path) -> tuple[bool, str]:
    """Whether a program does the same launched, and its row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        alone = timed([sys.executable, str(program)])
        launched = timed([sys.executable, "-m", "joulemeter.launch", "--raw", folder, str(program)])
        sites, spans = recorded(Path(folder))
    same = alone[1:3] == launched[1:3] and alone[1] == 0 and bool(alone[2])
    if not same:
        sys.stderr.write(f"{program.name}: {alone[1:3]}\n{launched[1:3]}\n{launched[3][-2000:]}\n")
    verdict = "same" if same else "DIFFERENT"
    return same, f"| {program.stem} | {verdict} | {sites} | {spans} | {alone[0]:.1f} | {launched[0]:.1f} |"


def main() -> None:
    """Prints the table; exits 1 where a program differs."""
    wanted = sys.argv[1:]
    print("| program | output | sites | spans | alone, s | launched, s |\n|---|---|---|---|---|---|")
    results = []
    for program in sorted(PROGRAMS.glob("*.py")):
        if program.stem in wanted or (not wanted and program.stem not in RANKED):
            same, row = compare(program)
            results.append(same)
            print(row, flush=True)
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
