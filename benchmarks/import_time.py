"""What `import joulemeter` costs beside its peers: milliseconds over an empty interpreter, medians, interleaved.

    python benchmarks/import_time.py [--peers DIR] [--rounds 11]

DIR holds a virtual environment a peer, as benchmarks/peers.py makes them; without it only Joulemeter is timed.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

MODULES = {
    "pyjoules": "pyJoules",
    "pyrapl": "pyRAPL",
    "codecarbon": "codecarbon",
    "perun": "perun",
    "zeus": "zeus.monitor",
    "carbontracker": "carbontracker.tracker",
    "pyinstrument": "pyinstrument",
    "scalene": "scalene",
}


def seconds(python: str, code: str) -> float:
    """Wall time of one interpreter running ``code``."""
    began = time.perf_counter()
    subprocess.run([python, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


def candidates(peers: Path | None) -> dict[str, tuple[str, str]]:
    """Of each tool, its interpreter and the module to import."""
    found = {"joulemeter": (sys.executable, "joulemeter")}
    for name, module in MODULES.items() if peers else ():
        python = Path(peers, name, "bin", "python")
        if (
            python.exists()
            and subprocess.run(
                [python, "-c", f"import {module}"], check=False, capture_output=True
            ).returncode
            == 0
        ):
            found[name] = (str(python), module)
    return found


def main() -> None:
    """Times all, in turn, and prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    tools = candidates(args.peers)
    costs: dict[str, list[float]] = {name: [] for name in tools}
    for _ in range(args.rounds):
        for name, (python, module) in tools.items():
            costs[name].append(seconds(python, f"import {module}") - seconds(python, "pass"))
    own = statistics.median(costs["joulemeter"])
    print("| import | ms (median) | of joulemeter |\n|---|---:|---:|")
    for name, values in sorted(costs.items(), key=lambda item: statistics.median(item[1])):
        median = statistics.median(values)
        print(f"| {tools[name][1]} | {1000 * median:.1f} | {median / own:.1f} × |")


if __name__ == "__main__":
    main()
