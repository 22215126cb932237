"""Programs that nobody wrote do with gates what they do without: output, results, errors, tracebacks."""

from __future__ import annotations

import ast
import random
import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from constructs import LIBRARY
from generated import program
from joulemeter.frameworks import static, written
from test_calls import ENGINES, Metered, observe
from test_instrument import without_columns

GENTLE = settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
RANDOM = st.randoms(use_true_random=False)


@pytest.fixture(autouse=True)
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("shop")
    module.__file__ = "shop.py"
    exec(compile(LIBRARY, "shop.py", "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "shop", module)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # thousands of programs are not worth a cache
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # literals that are called, coroutines that nobody awaits
        yield


def seen(code: Any) -> tuple[str, str]:
    """What a program prints and how it ends, without the addresses of objects."""
    printed, ended = observe(code)
    return re.sub("0x[0-9a-f]+", "0x", printed), re.sub("0x[0-9a-f]+", "0x", ended)


def differences(source: str, meters: list[Metered]) -> list[str]:
    """In what the program differs when it is metered or written out: nothing, we hope."""
    bare = seen(compile(source, "case.py", "exec", dont_inherit=True))
    found = [
        f"{type(meter.gates).__module__}: {now} and not {bare}"
        for meter in meters
        if (now := seen(meter.code(source))) != bare
    ]
    text = written.written(source)
    now = seen(compile(text, "case.py", "exec", dont_inherit=True))
    if now[0] != bare[0] or kinds(now[1]) != kinds(bare[1]):
        found.append(f"written out: {now} and not {bare}\n{text}")
    return found


def kinds(ended: str) -> list[str]:
    """How a written-out program ends: by which errors. A method call over lines fails on another line."""
    return [line.partition(" [")[0] for line in without_columns(ended).splitlines()]


def test_generated_programs_run_as_they_did(tmp_path: Path) -> None:
    meters = [Metered(tmp_path / engine.__name__, engine) for engine in ENGINES]

    @GENTLE
    @given(RANDOM)
    def check(chosen: random.Random) -> None:
        source = program(chosen)
        assert not differences(source, meters), source

    check()
    calls = [sorted(meter.entered()) for meter in meters]
    assert all(each == calls[0] for each in calls), "the engines record the same calls"
    assert len(calls[0]) > 100


@GENTLE
@given(RANDOM)
def test_every_call_of_a_generated_program_passes_a_gate_or_is_listed(chosen: random.Random) -> None:
    source = program(chosen)
    found = static.calls(source)
    assert len(found) == len({(c.line, c.column, c.end_line, c.end_column) for c in found})
    spots = {
        (n.lineno, n.col_offset, n.end_lineno) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)
    }
    assert {(c.line, c.column, c.end_line) for c in found} == spots
    assert all(call.wrapped != bool(call.reason) for call in found)
