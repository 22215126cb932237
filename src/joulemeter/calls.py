"""Calls named on a command line: ``module:function`` with a set-up and arguments, as for ``timeit``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from joulemeter.errors import UsageError, nearest


def named(functions: Sequence[str], setup: str = "", arguments: str = "") -> dict[str, Callable[[], Any]]:
    """The calls ``function(arguments)`` by name, their arguments made once, after ``setup`` has run.

    The code is the user's own, typed by the user, and runs as theirs. Raises UsageError for a name that
    cannot be imported or arguments that are no Python.
    """
    space = _prepared(setup)
    args, kwargs = _arguments(arguments, space)
    return {name: _bound(function(name), args, kwargs) for name in functions}


def arguments(text: str, setup: str = "") -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that ``text`` makes, as between the parentheses of a call, after ``setup`` has run."""
    return _arguments(text, _prepared(setup))


def function(name: str) -> Callable[..., Any]:
    """The callable that ``module:attribute.attribute`` names; modules of the current folder are found."""
    module_name, separator, path = name.partition(":")
    if not separator or not path:
        raise UsageError(f"'{name}' does not name a function", "MODULE:FUNCTION, such as torch:mm")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"module '{module_name}' cannot be imported ({error})", "run in its folder, or install it"
        ) from None
    words = path.split(".")
    for at, word in enumerate(words):
        if not hasattr(found, word):
            before = f"{module_name}:{''.join(f'{each}.' for each in words[:at])}"
            raise UsageError(f"'{module_name}' has no '{path}'", nearest(before, found, *words[at:]))
        found = getattr(found, word)
    if not callable(found):
        raise UsageError(
            f"'{name}' is not a function but a {type(found).__name__}", "MODULE:FUNCTION, such as torch:mm"
        )
    return found  # type: ignore[no-any-return]


def _prepared(setup: str) -> dict[str, Any]:
    space: dict[str, Any] = {"__name__": "__setup__"}
    try:
        exec(compile(setup, "<setup>", "exec"), space)
    except SyntaxError as error:
        raise UsageError(
            f"--setup is no Python: {error}", "--setup 'import torch; x = torch.rand(3)'"
        ) from None
    return space


def _arguments(text: str, space: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    try:
        code = compile(f"(lambda *args, **kwargs: (args, kwargs))({text}\n)", "<args>", "eval")
    except SyntaxError as error:
        raise UsageError(f"--args is no list of arguments: {error.msg}", "--args 'x, 3, alpha=1.0'") from None
    try:
        made: tuple[tuple[Any, ...], dict[str, Any]] = eval(code, space)
    except NameError as error:
        raise UsageError(f"--args: {error}", "--setup 'import …; x = …' to make the names") from None
    return made


def _bound(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
    return lambda: function(*args, **kwargs)
