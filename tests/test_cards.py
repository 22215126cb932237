"""Cards: what a path holds, how far to trust it, and that damage is told."""

import json
import math

import numpy as np
import pytest

import web
from joulemeter import cards, dataset, score_data, score_tables
from joulemeter.errors import DatasetError, UsageError
from joulemeter.record import Record
from joulemeter.report import card as views


def records() -> list[Record]:
    made = [
        Record(
            level="kernel",
            family="conv|bn",
            origin="measured",
            device="phone",
            shape={"n": n},
            flops=1e6 * n,
            energy_j=1e-3 * n,
            energy_low_j=0.9e-3 * n,
            energy_high_j=1.1e-3 * n,
            time_s=1e-3 * n,
        )
        for n in (1, 2, 3)
    ]
    return [*made, Record(level="model", family="<cnn>", origin="estimated", device="phone", network="net")]


@pytest.fixture
def card(tmp_path) -> cards.Card:
    dataset.append(tmp_path / "mine", records())
    return cards.card_of(tmp_path / "mine")


def test_a_data_sets_card_counts_and_says_what_is_unknown(card):
    assert (card.title, card.kind, card.origin) == ("mine", "data set", "estimated and measured")
    by_family = {row[1]: row for row in card.sheets[0].rows}
    assert by_family["conv|bn"][2:] == ("3", "3", "2.00 mJ", "1.00 mJ", "3.00 mJ", "±10.0 %", "2.00 ms")
    assert by_family["<cnn>"][2:] == ("1", "0", "unknown", "unknown", "unknown", "unknown", "unknown")
    assert len(card.points) == 3


def test_a_card_can_be_text_json_and_markdown(card):
    assert "conv|bn" in views.render_card(card, "text")
    assert json.loads(views.render_card(card, "json"))["kind"] == "data set"
    rows = [line for line in views.render_card(card, "markdown").splitlines() if line.startswith("| ")]
    assert len({line.replace("\\|", "").count("|") for line in rows[:4]}) == 1


def test_another_format_is_refused_with_those_there_are(card):
    with pytest.raises(UsageError, match="text, json, markdown, html"):
        views.render_card(card, "pprof")


def test_the_page_is_clean_in_the_browser(card, tmp_path):
    place = tmp_path / "card.html"
    place.write_text(views.render_card(card, "html"))
    axe = (web.npm("axe-core") / "axe.min.js").read_text(encoding="utf-8")
    with web.browser() as chromium:
        page = chromium.new_context(bypass_csp=True).new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(place.as_uri())
        assert "<cnn>" in page.locator("tbody").first.inner_text()
        page.evaluate(axe)
        assert [(v["id"], v["nodes"][0]["html"]) for v in page.evaluate("axe.run()")["violations"]] == []
        assert said == []


def test_what_has_no_card_has_none(tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"kind": "something else"}')
    assert cards.card_of(other) is None
    assert cards.card_of(tmp_path) is None
    assert cards.scores_of(other) is None


def test_scores_are_known_again_and_torn_ones_told(tmp_path):
    place = tmp_path / "scores.json"
    whole = {"schema": 1, "cannot_be_told_apart": {}, "devices": [], "networks": [], "reference": "A"}
    place.write_text(json.dumps({**whole, "origin": "replayed", "notes": []}))
    assert cards.scores_of(place)["reference"] == "A"
    place.write_text(json.dumps(whole))
    with pytest.raises(DatasetError, match="scores without 'origin'"):
        cards.scores_of(place)


def test_a_record_without_interval_has_no_width(tmp_path):
    dataset.append(tmp_path / "d", [Record(level="kernel", family="f", origin="measured", energy_j=1.0)])
    row = cards.card_of(tmp_path / "d").sheets[0].rows[0]
    assert row[4] == "1.00 J"
    assert row[7] == "unknown"
    assert math.isnan(Record(level="kernel", family="f", origin="measured").energy_j)


def test_a_predictors_card_is_its_validation(tmp_path):
    from joulemeter import predictor_file
    from joulemeter.accuracy import Accuracy
    from joulemeter.models.predictor import Predictor

    measured = Accuracy(120, 0.043, 0.031, 0.06, 0.7, 0.9, 0.97, 0.91, 0.05, math.nan)
    least, rounding = {"energy_j": np.ones(3)}, {"energy_j": 1e-3}
    made = Predictor(
        "phone", "tflite", "measured", {"energy_j": {}}, least, rounding, card={"overall": measured}
    )
    card = cards.card_of(predictor_file.save(made, tmp_path / "p.joules"))
    assert card.origin == "predicted, from measured energies"
    ((family, *figures),) = card.sheets[0].rows
    assert (family, figures) == (
        "overall",
        ["120", "6.0 %", "4.3 %", "3.1 %", "90.0 %", "91.0 %", "unknown", "5.0 %"],
    )


def test_a_path_is_shown_as_what_it_holds(tmp_path):
    from joulemeter.cli._cards import shown

    dataset.append(tmp_path / "mine", records())
    assert "mine: data set" in shown(tmp_path / "mine", "text")
    table = tmp_path / "t.csv"
    table.write_text("device,dnn,processor,average_power_W,energy_J\nA,n,CPU1,2,1\nB,n,CPU1,2,2\n")
    data = score_data.scored(score_tables.read_table(table, [], {"": 10.0})).data
    (tmp_path / "scores.json").write_text(json.dumps(data))
    assert "A = 100" in shown(tmp_path / "scores.json", "text")
    assert "<h1>Energy leaderboard</h1>" in shown(tmp_path / "scores.json", "html")
    with pytest.raises(UsageError, match="text, html, json"):
        shown(tmp_path / "scores.json", "pprof")
    assert shown(table, "text") is None


def test_two_runs_are_compared_as_a_page_only(tmp_path):
    import sample_run
    from joulemeter.cli._cards import compared

    run = sample_run.run(tmp_path)
    mine = (run, sample_run.ledger(run))
    assert "no difference seen" in compared("html", mine, mine)
    with pytest.raises(UsageError, match="--format html, or joulemeter compare"):
        compared("csv", mine, mine)


def test_a_sweep_is_shown_by_the_axes_that_vary(tmp_path):
    runs = [
        Record(level="run", family="mlp", origin="measured", device="cpu", energy_j=2.0 * size, energy_low_j=size,
               energy_high_j=3.0 * size, facts={"size": size, "depth": 3, "status": "done"})
        for size in (512, 4096)
    ]  # fmt: skip
    failed = Record(
        level="run", family="mlp", origin="measured", facts={"size": 512, "depth": 3, "status": "failed"}
    )
    dataset.append(tmp_path / "s", [*runs, failed])
    card = cards.card_of(tmp_path / "s")
    assert card.kind == "sweep"
    assert "1 of 3 runs failed" in card.facts
    assert [row[:4] for row in card.sheets[0].rows] == [("size", "512", "2", "1"), ("size", "4096", "1", "1")]
