"""Rounds in C between two looks at a counter's pace: the same readings as Powercap.read gives, in the raw format."""

import math
import os
import time
from pathlib import Path

import numpy as np
import pytest

from joulemeter import rawfiles
from joulemeter.reading import Polled
from joulemeter.sources import rapl
from test_sources_contract import powercap_tree

rounds = pytest.importorskip("joulemeter._powercap").rounds
MS = 1_000_000
TWO = {"intel-rapl:0": ("package-0", 1_000_000), "intel-rapl:0:0": ("dram", 100_000)}


def zone(fd, known=False, edge_ns=0.0, period_ns=1e6, trusted_until_ns=0, given=None):
    """What is known of a zone; ``given`` (t_ns, joules)."""
    return (fd, known, edge_ns, period_ns, trusted_until_ns, given is not None, *(given or (0, 0.0)))


class Counter:
    """A counter's file, and what was read of it."""

    def __init__(self, folder: Path, text: bytes) -> None:
        (folder / "energy_uj").write_bytes(text)
        self.fd = os.open(folder / "energy_uj", os.O_RDWR)
        self.out = folder / "readings-0.bin"
        self.file = os.open(self.out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def read(self, *zones, first_rail=0, count=1, file=None, stop=b"\0"):
        now = time.monotonic_ns()
        target = self.file if file is None else file
        until = now + (count - 1) * MS + MS // 2
        return rounds(list(zones), target, first_rail, now, MS, until, bytearray(stop))

    def readings(self) -> np.ndarray:
        return rawfiles.read_readings(self.out.parent)


@pytest.fixture
def counter(tmp_path):
    made = Counter(tmp_path, b"000001234567\n")
    yield made
    os.close(made.fd)
    os.close(made.file)


def test_a_round_is_a_record_of_the_raw_format(counter):
    before = time.monotonic_ns()
    due, reads, failed, lost, doubted, given = counter.read(zone(counter.fd), first_rail=7)
    (row,) = counter.readings()
    assert (reads, failed, lost, doubted) == (1, 0, 0, -1)
    assert (row["rail"], row["value"]) == (7, 1.234567)
    assert before <= row["t_ns"] <= time.monotonic_ns()
    assert given == [(row["t_ns"], 1.234567)]
    assert due > before


@pytest.mark.parametrize("text", [b"", b"\n", b"not a number\n", b"12x4\n", b"-5\n"])
def test_what_is_no_number_is_a_gap_and_counted(counter, text):
    os.ftruncate(counter.fd, 0)
    os.pwrite(counter.fd, text, 0)
    *_, failed, lost, doubted, given = counter.read(zone(counter.fd))
    assert math.isnan(counter.readings()[0]["value"])
    assert (failed, lost, doubted, given) == (1, 0, -1, [None])


def test_a_counter_that_cannot_be_read_leaves_the_others_alone(counter):
    counter.read(zone(-1), zone(counter.fd))
    assert [(row["rail"], math.isnan(row["value"])) for row in counter.readings()] == [(0, True), (1, False)]


def test_a_value_that_was_given_is_left_out_until_the_counter_has_been_quiet(counter):
    now = time.monotonic_ns()
    counter.read(zone(counter.fd, period_ns=1e12, given=(now, 1.234567)))
    assert len(counter.readings()) == 0
    counter.read(zone(counter.fd, period_ns=1e6, given=(now - 10 * MS, 1.234567)))
    assert len(counter.readings()) == 1


def test_a_reading_is_stamped_with_its_refresh_where_the_pace_is_trusted(counter):
    edge = float(time.monotonic_ns() - 5 * MS)
    pace = {"known": True, "edge_ns": edge, "period_ns": 1e9}
    counter.read(zone(counter.fd, **pace, trusted_until_ns=2**62, given=(1, 1.0)))
    counter.read(zone(counter.fd, **pace, trusted_until_ns=0, given=(1, 1.0)))
    trusted, plain = counter.readings()["t_ns"]
    assert trusted == round(edge)
    assert plain > edge + 4 * MS


def test_a_second_value_within_one_refresh_raises_a_doubt_ends_the_rounds_and_is_left_to_the_next(counter):
    now = time.monotonic_ns()
    pace = {"known": True, "edge_ns": float(now - 5 * MS), "period_ns": 1e9, "trusted_until_ns": 2**62}
    _, reads, *_, doubted, given = counter.read(zone(counter.fd, **pace, given=(now, 1.0)), count=5)
    assert (reads, doubted, given) == (1, 0, [(now, 1.0)])
    assert len(counter.readings()) == 0


def test_a_full_disk_is_counted_and_a_bad_file_raised(counter):
    with open("/dev/full", "wb") as full:
        assert counter.read(zone(counter.fd), zone(counter.fd), file=full.fileno())[3] == 2
    with pytest.raises(OSError, match="Bad file"):
        counter.read(zone(counter.fd), file=-1)


def test_a_stop_ends_the_rounds(counter):
    assert counter.read(zone(counter.fd), count=1000, stop=b"\1")[1] == 0


def test_more_zones_than_there_is_room_for_are_refused(counter):
    with pytest.raises(ValueError, match="at most 64"):
        counter.read(*[zone(counter.fd)] * 65)


def test_a_powercap_tree_polls_by_itself_and_says_what_it_read(tmp_path):
    """Counters that stand still have no pace to be watched for: once the first look is over, rounds are in C."""
    source = rapl.open(str(powercap_tree(tmp_path, TWO)))
    (tmp_path / "raw").mkdir()
    file = os.open(tmp_path / "raw" / "readings-0.bin", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for _ in range(100):
        source.read()
        polled = source.poll(file, 3, time.monotonic_ns(), MS, bytearray(1))
        if polled.reads:
            break
    source.close()
    os.close(file)
    assert isinstance(polled, Polled)
    assert polled.reads > 0
    assert polled.failed == polled.lost == 0
    assert set(rawfiles.read_readings(tmp_path / "raw")["rail"]) <= {3, 4}


def test_a_source_whose_clock_is_not_the_machines_polls_in_python(tmp_path):
    source = rapl.open(str(powercap_tree(tmp_path, TWO)))
    own = rapl.Powercap(tmp_path, rapl.find_zones(tmp_path), pread=lambda *_: b"1\n")
    assert own.poll is None
    source.close()
    own.close()
