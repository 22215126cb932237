"""``%load_ext joulemeter``: the energy of notebook cells.

%%joules              meters the cell and shows where its joules went, by call of a deep-learning library
%joules fit(x)        meters one line
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import CodeType
from typing import Any

from joulemeter.errors import JoulemeterError, UsageError
from joulemeter.meter import Meter
from joulemeter.sources import split_specs


def load_ipython_extension(shell: Any) -> None:
    """Registers the magics; IPython calls it."""
    shell.register_magic_function(_magic(shell), "line_cell", "joules")


def unload_ipython_extension(shell: Any) -> None:
    """Takes the magics away again."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("joules", None)


def _magic(shell: Any) -> Any:
    def joules(line: str, cell: str | None = None) -> Any:
        """%%joules [SOURCE,…]: meter this cell. %joules STATEMENT: meter this line. Shows the ledger."""
        names = line.strip().removeprefix("--source").lstrip("= ") if cell is not None else ""
        named = split_specs(names) if names else None
        source = cell if cell is not None else line
        meter = Meter(sources=named)
        try:
            refuse_await(shell, source)
            with meter, by_call(shell, meter, source):
                result = shell.run_cell(source)
        except JoulemeterError as error:
            print_error(shell, error)
            return None
        if not result.success:
            return None
        if cell is None:
            return meter.ledger  # displayed as the value of the line, unless it is kept
        show(meter)
        return None

    return joules


def refuse_await(shell: Any, source: str) -> None:
    """Raises UsageError for a cell that awaits: its loop runs already, below the magic."""
    if shell.should_run_async(source, transformed_cell=shell.transform_cell(source)):
        raise UsageError("a cell that awaits cannot run in a magic", "with joulemeter.Meter() as meter: …")


def print_error(shell: Any, error: JoulemeterError) -> None:
    """One line, as the notebook shows errors, without a traceback."""
    shell.showtraceback((JoulemeterError, error, None), exception_only=True)


def show(meter: Meter) -> None:
    """Displays the ledger of a finished meter in the notebook."""
    import_module("IPython.display").display(meter.ledger)


@contextmanager
def by_call(shell: Any, meter: Meter, source: str) -> Iterator[None]:
    """Meanwhile, what the shell compiles of ``source`` records its calls of deep-learning libraries."""
    from joulemeter.frameworks import calls

    judge = calls.Judge(meter.recorder)
    plain, shell.compile = shell.compile, Compiler(shell.compile, meter.recorder, judge, source)
    try:
        yield
    finally:
        shell.compile = plain
        judge.flush()


class Compiler:
    """The shell's compiler with gates before the calls of one source; else the same."""

    def __init__(self, plain: Any, recorder: Any, judge: Any, source: str) -> None:
        from joulemeter.frameworks import calls

        self._plain = plain
        self._judge = judge
        self._gates = recorder.gates(judge, calls.special())
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __call__(self, tree: Any, filename: str, symbol: str) -> CodeType:
        """Code of a statement of the source, or of an expression that is shown (``symbol``: "single")."""
        from joulemeter.frameworks import rewrite, tracing

        if not isinstance(tree, ast.AST) or rewrite.MARK.strip("\0 ") in self._source:
            code: CodeType = self._plain(tree, filename, symbol)
            return code
        made = rewrite.rewrite(tree)  # type: ignore[arg-type]
        places = rewrite.places(made)
        tracing.sources[filename] = (self._source, 0)
        loaded = {name.partition(".")[0] for name in tuple(sys.modules)}
        if self._judge.imported(made.imports | loaded):
            self._gates.forget()

        def gate(index: int) -> Any:
            """The gate of place ``index`` of the cell."""
            at = places[index]
            return self._gates.gate(at.kind, ("cell", at.line, at.column, at.function))

        return rewrite.fill(self._plain(made.tree, filename, symbol), gate)
