"""The page of a run, opened in a real browser: what it shows, that it fetches nothing, that all can use it."""

import dataclasses
import json
import math
import re
from collections.abc import Iterator

import numpy as np
import pytest

import sample_run
import web
from joulemeter import argument_sizes, calltree
from joulemeter.ledger import Ledger
from joulemeter.report import html
from joulemeter.run import Run
from joulemeter.span import Spans

SCRIPT = """import torch
def main(): ...
def step(x):  # </script><script>alert(1)</script>
    return torch.relu(torch.nn.functional.linear(x, w))
text = open("config.json").read()
config = json.loads(text)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    script = folder / "train.py"
    script.write_text(SCRIPT)
    return sample_run.run(folder, script)


@pytest.fixture(scope="module")
def written(run) -> str:
    return html.page(run, sample_run.ledger(run), (run, sample_run.ledger(run, 0.8)))


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    with web.browser() as opened:
        yield opened


class Opened:
    """The page in a tab, with whatever it said on the console and asked of the network."""

    def __init__(self, browser, path, text: str, **context) -> None:
        path.write_text(text, encoding="utf-8")
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, **context)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.documentElement.dataset.ready === 'yes'")


@pytest.fixture
def opened(chromium, written, tmp_path) -> Iterator[Opened]:
    tab = Opened(chromium, tmp_path / "run.html", written)
    yield tab
    tab.context.close()


# ── what is written ──────────────────────────────────────────────────────────────────────────────────


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def test_the_figures_stand_in_plain_html_with_origin_and_interval(written):
    assert "946 J" in written
    assert "95 % interval 927 J to 965 J; estimated and measured" in written
    for rail, origin, energy in (("package-0", "measured", "400 J"), ("gpu-0", "estimated", "546 J")):
        assert f'<th scope="row">{rail}</th><td>{origin}</td><td>{energy}</td>' in written


def test_gaps_and_doubts_are_warned_of(written):
    assert "gpu-0: 900 ms were not seen" in written
    assert "2 of 6 sites cannot be told apart" in written
    assert "Changed since the run" in written


def test_names_from_the_program_are_never_markup(written):
    assert "<b>&amp;</b>" not in written
    assert "alert(1)</script>" not in written.replace("\\u003c", "<!")
    assert data_of(written)["sites"][2]["name"] == "torch.relu <b>&amp;</b>; inner"


def test_the_page_names_no_address(written):
    assert not re.findall(r"(?:src|href)=[\"']?(?!#|data:)[a-z]", written)
    assert "http" not in written.replace("http-equiv", "")


def test_an_unmetered_run_says_so_first(run):
    bare = html.render(run, Ledger((), ()))
    assert "Nothing was metered" in bare
    assert "unknown" in bare


def test_the_comparison_says_more_less_or_no_difference(run):
    now, then = sample_run.ledger(run), sample_run.ledger(run, 0.999)
    more = html.page(run, now, (run, sample_run.ledger(run, 0.5)))
    less = html.page(run, now, (run, sample_run.ledger(run, 2.0)))
    assert '<td class="more">more</td>' in more
    assert '<td class="less">less</td>' in less
    same = html.page(run, now, (run, then))
    assert 'class="more"' not in same
    assert "no difference seen" in same


def test_lines_of_source_carry_the_joules_of_their_sites(written):
    (file,) = data_of(written)["sources"]
    assert file["text"] == SCRIPT.splitlines()
    assert file["lines"]["0"]["3"]["energy_j"] == pytest.approx(120)
    assert file["lines"]["0"]["6"]["doubtful"]
    assert "4" not in file["lines"]["1"]  # relu is not known there: no joules, not zero


def test_arguments_as_tracers_describe_them_are_counted_by_size():
    linear = {
        "type": "torch.Tensor",
        "shape": [32, 128],
        "dtype": "torch.float32",
        "device": "cpu",
        "bytes": 16384,
    }
    described = {
        "described": 4,
        "of": 4,
        "each": {"0": [{**linear, "count": 3}, {"type": "NoneType", "count": 1}]},
    }
    ((name, (tensor, none)),) = argument_sizes.distributions(described)
    assert (name, tensor.text, tensor.size_bytes, tensor.count) == ("0", "32×128 float32", 16384.0, 3.0)
    assert none.text == "NoneType"
    assert argument_sizes.bytes_per_call(described) == 16384 * 3 / 4


def test_any_mapping_of_values_to_counts_is_a_distribution():
    found = argument_sizes.distributions({"input": {"shape": {"2x3": 4}, "bytes": {"24": 4}}, "note": "text"})
    assert [(name, [(s.text, s.count) for s in seen]) for name, seen in found] == [
        ("input shape", [("2x3", 4.0)]),
        ("input bytes", [("24", 4.0)]),
    ]


def test_arguments_without_sizes_have_no_bytes_not_zero():
    assert math.isnan(
        argument_sizes.bytes_per_call({"each": {"n": [{"type": "int", "value": 3, "count": 2}]}})
    )


def test_a_pruned_tree_keeps_every_joule_and_every_caller(run):
    tree, ledger = calltree.of(run.spans), sample_run.ledger(run)
    own = np.nan_to_num(calltree.energy_j(tree, ledger, 0))
    for most in range(1, len(tree) + 1):
        cut = calltree.pruned(tree, [own], most)
        assert np.nansum(cut.gathered(own)) == pytest.approx(own.sum())
        assert (cut.parent < np.arange(len(cut.site))).all()


def test_many_spans_make_no_larger_page(tmp_path):
    count = 300_000
    start = sample_run.START + np.arange(count) * 30_000
    site = np.arange(count) % 6
    zero = np.zeros(count, np.int64)
    many = Spans(site.astype(np.int32), zero.astype(np.int32), start, start + 20_000, zero - 1)
    run = dataclasses.replace(sample_run.run(tmp_path), spans=many)
    text = html.render(run, sample_run.ledger(run))
    assert len(text) < 3_000_000
    lane = data_of(text)["timeline"]["lanes"][0]
    assert sum(lane["count"]) == count
    assert lane["merged"]


# ── in the browser ───────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_fetched_and_nothing_complains(opened):
    for key in ("+", "ArrowRight", "-", "0"):
        opened.page.locator("#timeline-canvas").press(key)
    opened.page.locator("#theme").click()
    opened.page.locator("#rail").select_option("1")
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []


def test_the_security_policy_stops_a_request(opened):
    refused = opened.page.evaluate("fetch('https://example.org/').then(() => 'sent', () => 'refused')")
    assert refused == "refused"
    assert any("Content Security Policy" in said for said in opened.complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(chromium, written, tmp_path, scheme):
    axe = (web.npm("axe-core") / "axe.min.js").read_text(encoding="utf-8")
    tab = Opened(chromium, tmp_path / "run.html", written, color_scheme=scheme, bypass_csp=True)
    tab.page.evaluate(axe)
    found = tab.page.evaluate("axe.run()")
    tab.context.close()
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
    assert len(found["passes"]) > 20


PLANTED = {
    "image-alt": "<img src='data:,'>",
    "button-name": "<button></button>",
    "color-contrast": "<p style='color:#999;background:#fff'>pale</p>",
    "label": "<input type='text'>",
}


def test_axe_would_find_what_is_planted(chromium, written, tmp_path):
    axe = (web.npm("axe-core") / "axe.min.js").read_text(encoding="utf-8")
    spoilt = written.replace("<main", f"{''.join(PLANTED.values())}<main", 1)
    tab = Opened(chromium, tmp_path / "spoilt.html", spoilt, color_scheme="light", bypass_csp=True)
    tab.page.evaluate(axe)
    found = {each["id"] for each in tab.page.evaluate("axe.run()")["violations"]}
    tab.context.close()
    assert found >= set(PLANTED)


def test_a_page_that_asks_the_network_would_be_caught(chromium, written, tmp_path):
    spoilt = written.replace("<main", "<img alt='' src='https://example.org/a.png'><main", 1)
    tab = Opened(chromium, tmp_path / "spoilt.html", spoilt, bypass_csp=True)
    tab.context.close()
    assert "https://example.org/a.png" in tab.requests


def test_every_control_is_reached_by_tab_and_shows_that_it_has_the_focus(opened):
    """A walk from the top: the skip link first, nothing twice, nothing unseen, and an outline on each."""
    seen = []
    for _ in range(200):
        opened.page.keyboard.press("Tab")
        at = opened.page.evaluate(FOCUSED)
        if at is None or at["index"] in {each["index"] for each in seen}:
            break
        seen.append(at)
    assert seen[0]["words"].startswith("Skip")
    assert [each for each in seen if each["outline"] < 2] == []
    reached = {each["index"] for each in seen}
    wanted = opened.page.evaluate(REACHABLE)
    assert [each["html"] for each in wanted if each["index"] not in reached] == []


FOCUSED = """() => {
  const at = document.activeElement;
  if (!at || at === document.body) return null;
  return {index: [...document.querySelectorAll('*')].indexOf(at), words: at.innerText || at.ariaLabel || '',
          outline: parseFloat(getComputedStyle(at).outlineWidth)};
}"""
REACHABLE = """() => [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex="0"]')]
  .filter(each => each.tabIndex >= 0 && !each.disabled && each.checkVisibility({visibilityProperty: true}) && !each.closest('details:not([open]) > :not(summary)'))
  .map(each => ({index: [...document.querySelectorAll('*')].indexOf(each), html: each.outerHTML.slice(0, 90)}))"""


@pytest.mark.parametrize("width", [600, 320])
def test_at_200_percent_and_more_nothing_is_cut_off_sideways(chromium, written, tmp_path, width):
    """A window of 1,200 pixels at 200 % has 600; WCAG 1.4.10 asks for 320."""
    tab = Opened(chromium, tmp_path / "run.html", written)
    tab.page.set_viewport_size({"width": width, "height": 600})
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    tab.context.close()


def test_a_site_that_took_something_but_cannot_be_split_shows_its_interval(chromium, run, tmp_path):
    """Below resolution is said of what may be nothing, not of 113 J to 127 J."""
    ledger = sample_run.ledger(run)
    linear = ledger.sites[1]
    entry = dataclasses.replace(linear.rails[0], resolved=False)
    spoilt = dataclasses.replace(linear, rails=(entry, *linear.rails[1:]))
    sites = (ledger.sites[0], spoilt, *ledger.sites[2:])
    page = html.render(run, dataclasses.replace(ledger, sites=sites))
    tab = Opened(chromium, tmp_path / "run.html", page)
    row = tab.page.locator("#site-rows tr", has=tab.page.locator("th", has_text="functional.linear"))
    assert "not resolved\n113 J to 127 J" in row.inner_text()
    tab.context.close()


def test_the_timeline_zooms_and_says_what_it_shows(opened):
    said = opened.page.locator("#timeline-range")
    assert said.inner_text().startswith("0 s to 10.0 s. package-0: mean 40.0 W, 400 J;")
    opened.page.get_by_role("button", name="Zoom in").click()
    assert said.inner_text().startswith("2.00 s to 8.00 s.")
    opened.page.locator("#timeline-canvas").press("ArrowRight")
    assert said.inner_text().startswith("3.20 s to 9.20 s.")
    opened.page.get_by_role("button", name="All of it").click()
    assert said.inner_text().startswith("0 s to 10.0 s.")


def test_hovering_a_span_a_rail_and_a_gap_says_what_it_is(opened):
    canvas, tip = opened.page.locator("#timeline-canvas"), opened.page.locator("#tip")
    canvas.scroll_into_view_if_needed()
    wide = canvas.bounding_box()["width"]
    tops = opened.page.evaluate("[AXIS_H + 40, AXIS_H + RAIL_H + GAP_H + 40, tops[0] + 20]")
    canvas.hover(position={"x": wide * 0.2, "y": tops[0]})
    assert "package-0 (measured)" in tip.inner_text()
    canvas.hover(position={"x": wide * 0.45, "y": tops[1]})
    assert "not seen: no answer" in tip.inner_text()
    canvas.hover(position={"x": wide * 0.05, "y": tops[2]})
    assert tip.inner_text().startswith("train.py\n10.0 s from 0 s")


def test_no_line_is_drawn_across_a_gap(opened):
    drawn = """t => {
      const x = scaleX(canvas.clientWidth)(t * 1e9), pen = canvas.getContext('2d'), top = AXIS_H + RAIL_H + GAP_H;
      const ink = colour('--power').match(/[0-9a-f]{2}/g).map(each => parseInt(each, 16));
      const column = pen.getImageData(Math.round(x), top + 16, 1, RAIL_H - 16).data;
      for (let i = 0; i < column.length; i += 4)
        if (ink.every((value, k) => Math.abs(value - column[i + k]) < 40)) return true;
      return false;
    }"""
    assert opened.page.evaluate(drawn, 2.0)
    assert not opened.page.evaluate(drawn, 4.5)


def frames(opened) -> list[str]:
    return opened.page.locator("#frames button").evaluate_all("all => all.map(each => each.ariaLabel)")


def test_the_flame_graph_adds_up_zooms_and_groups(opened):
    assert frames(opened)[0].startswith("package-0, 400 J with what it calls")
    assert any(label.startswith("idle, 152 J") for label in frames(opened))
    opened.page.get_by_role("button", name="encoder.layer, 173 J").click()
    assert frames(opened)[0].startswith("encoder.layer, 173 J")
    opened.page.keyboard.press("Escape")
    opened.page.keyboard.press("Escape")
    assert frames(opened)[0].startswith("package-0")
    opened.page.locator("#group").select_option("operator")
    names = [label.partition(",")[0] for label in frames(opened)]
    assert "encoder.layer" not in names
    assert "torch.nn.functional.linear" in names
    assert any(label.startswith("train.py, 183 J with what it calls, 17.0 J own") for label in frames(opened))
    opened.page.locator("#group").select_option("line")
    assert any(label.startswith("train.py:3, 120 J") for label in frames(opened))
    opened.page.locator("#group").select_option("all")
    opened.page.locator("#measure").select_option("exclusive")
    assert frames(opened)[1].startswith("torch.nn.functional.linear, 120 J own")


def test_arrow_keys_walk_the_flame_graph(opened):
    opened.page.locator("#frames button").first.focus()
    opened.page.keyboard.press("ArrowRight")
    assert opened.page.evaluate("document.activeElement.ariaLabel").startswith("train.py")
    assert opened.page.locator("#frames button[tabindex='0']").count() == 1


def test_the_flame_graph_of_a_rail_with_an_unknown_site_says_so(opened):
    opened.page.locator("#rail").select_option("1")
    assert "1 chains of calls are not known" in opened.page.locator("#flame-says").inner_text()


def names_in_table(opened) -> list[str]:
    return opened.page.locator("#site-rows th code").all_inner_texts()


def test_the_table_sorts_filters_and_says_how(opened):
    assert names_in_table(opened)[0] == "torch.nn.functional.linear"
    head = opened.page.locator("#site-heads th")
    assert head.nth(4).get_attribute("aria-sort") == "descending"
    opened.page.get_by_role("button", name="Site").first.click()
    assert names_in_table(opened) == sorted(names_in_table(opened), key=str.lower)
    assert head.nth(0).get_attribute("aria-sort") == "ascending"
    opened.page.locator("#filter").fill("KERNEL")
    assert names_in_table(opened) == ["sgemm_128x64"]
    assert opened.page.locator("#site-count").inner_text() == "1 of 6 sites."


def test_two_calls_on_one_line_stand_with_their_columns(chromium, run, tmp_path):
    ledger = sample_run.ledger(run)
    twins = [
        dataclasses.replace(
            site, site=dataclasses.replace(site.site, name="mm", file="a.py", line=7, column=at)
        )
        for site, at in zip(ledger.sites[1:3], (4, 19), strict=True)
    ]
    tab = Opened(
        chromium, tmp_path / "twins.html", html.page(run, dataclasses.replace(ledger, sites=tuple(twins)))
    )
    said = tab.page.locator("#site-rows th").all_inner_texts()
    tab.context.close()
    assert sorted(said) == ["mm a.py:7:19", "mm a.py:7:4"]
    assert not tab.complaints


def test_a_site_that_is_not_told_apart_has_a_joint_figure(opened):
    row = opened.page.locator("#site-rows tr", has=opened.page.locator("th", has_text="json.loads"))
    assert "not told apart\nfrom encoder.layer; jointly 13.0 J (11.7 J to 14.3 J)" in row.inner_text()


def test_an_unknown_energy_reads_unknown_and_sorts_last(opened):
    opened.page.locator("#rail").select_option("1")
    last = opened.page.locator("#site-rows tr").last.inner_text()
    assert "torch.relu" in last
    assert "unknown" in last


def test_source_shows_code_as_text_beside_its_joules(opened):
    rows = opened.page.locator("#lines tr")
    assert "</script><script>alert(1)</script>" in rows.nth(2).inner_text()
    assert "120 J" in rows.nth(2).inner_text()


def test_a_page_without_rails_opens_too(chromium, run, tmp_path):
    tab = Opened(chromium, tmp_path / "bare.html", html.render(run, Ledger((), ())))
    assert tab.complaints == []
    tab.context.close()
