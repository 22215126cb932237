"""``%load_ext joulemeter``: the energy of notebook cells.

%%joules              meters the cell and shows where its joules went
%joules fit(x)        meters one line
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from joulemeter.errors import JoulemeterError
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
        named = split_specs(line.strip()) if cell is not None and line.strip() else None
        meter = Meter(sources=named)
        try:
            with meter:
                result = shell.run_cell(cell if cell is not None else line)
        except JoulemeterError as error:
            print_error(shell, str(error))
            return None
        if result.success:
            show(meter)
        return meter.ledger if cell is None and result.success else None

    return joules


def print_error(shell: Any, text: str) -> None:
    """One line, as the notebook shows errors, without a traceback."""
    shell.showtraceback((JoulemeterError, JoulemeterError(text), None), exception_only=True)


def show(meter: Meter) -> None:
    """Displays the ledger of a finished meter in the notebook."""
    import_module("IPython.display").display(meter.ledger)
