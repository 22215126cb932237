"""The leaderboard page: who leads, what cannot be told apart, and who can read it."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import web
from joulemeter import score_data, score_tables, scoring, svg_plot
from joulemeter.cli.score import command
from joulemeter.report import leaderboard

TABLE = """device,dnn,processor,average_power_W,energy_J,task,accuracy
A <b>,small,CPU1,2,0.5,vision,0.70
A <b>,large,CPU1,3,2.0,vision,0.80
B,small,CPU1,4,0.2,vision,0.70
B,large,CPU1,5,0.9,vision,0.80
C,small,CPU1,1,0.51,vision,0.70
C,large,CPU1,2,2.02,vision,0.80
D,small,CPU1,1,,vision,0.70
"""
DEVICES = "device,tdp_W,price\nA <b>,10,300\nB,10,900\nC,10,200\nD,10,100\n"


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    (tmp_path / "t.csv").write_text(TABLE)
    (tmp_path / "d.csv").write_text(DEVICES)
    return tmp_path / "t.csv", tmp_path / "d.csv"


@pytest.fixture
def written(files) -> str:
    devices = score_tables.read_devices(files[1])
    return leaderboard.page(score_data.scored(score_tables.read_table(files[0], devices), devices).data)


def test_the_page_says_who_leads_and_who_cannot_be_told_apart(written):
    assert "B: most inferences per joule" in written
    assert "cannot be told apart by IECS: A &lt;b&gt; and C" in written


def test_every_score_has_its_interval(written):
    value = 100 * math.sqrt(0.5 / 0.2 * 2.0 / 0.9)
    low, high = value * math.exp(-0.05), value * math.exp(0.05)
    assert f"{value:.0f}<small>{low:.0f} to {high:.0f}</small>" in written


def test_networks_are_labelled_and_doubts_listed(written):
    assert '<th scope="row">small</th><td class="left">vision</td>' in written
    assert "delegate-fell-back" not in written


def test_a_device_that_another_beats_in_all_is_off_the_front():
    front = scoring.pareto(np.array([1.0, 2.0, 2.0, np.nan]), np.array([1.0, 1.0, 3.0, 9.0]))
    assert front.tolist() == [False, False, True, False]


def test_equal_things_do_not_beat_each_other():
    assert scoring.pareto(np.array([1.0, 1.0]), np.array([2.0, 2.0])).tolist() == [True, True]


def test_the_area_of_a_bubble_is_its_size():
    sizes = (100.0, 400.0)
    bubbles = [
        svg_plot.Bubble("b", 1.0 + n, math.nan, math.nan, n, size, True) for n, size in enumerate(sizes)
    ]
    found = re.findall(r'r="([0-9.]+)"', svg_plot.svg(bubbles, "x", "y", "two"))
    small, large = (float(radius) - 4 for radius in found)
    assert large / small == pytest.approx(2, abs=0.05)


def test_the_front_of_networks_is_less_energy_for_more_accuracy(written):
    assert "On the Pareto front: small, large." in written


def test_the_command_writes_the_page(files, tmp_path):
    place = tmp_path / "board.html"
    result = CliRunner().invoke(
        command, ["--table", str(files[0]), "--devices", str(files[1]), "--html", str(place), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert "Energy leaderboard" in place.read_text()


def test_in_the_browser_it_sorts_filters_fetches_nothing_and_axe_is_content(written, tmp_path):
    place = tmp_path / "board.html"
    place.write_text(written)
    axe = (web.npm("axe-core") / "axe.min.js").read_text(encoding="utf-8")
    with web.browser() as chromium:
        for scheme in ("light", "dark"):
            page = chromium.new_context(color_scheme=scheme, bypass_csp=True).new_page()
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(place.as_uri())
            names = page.locator("#devices-table tbody th")
            assert names.all_inner_texts() == ["B", "A <b>", "C", "D"]
            page.get_by_role("button", name="PCS", exact=True).click()
            assert names.all_inner_texts()[0] in ("C", "D")
            page.locator(".filter").fill("a <b>")
            assert page.locator("#devices-table tbody tr:visible").count() == 1
            page.evaluate(axe)
            assert [(v["id"], v["nodes"][0]["html"]) for v in page.evaluate("axe.run()")["violations"]] == []
            assert said == []
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
