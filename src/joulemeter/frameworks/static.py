"""What can be said of a source's calls before it runs.

An API name is given where the source itself makes it sure: the callee is reached from an import through
names that are bound once. Everything else is left to the gates, which decide when it runs.
"""

from __future__ import annotations

import ast
from typing import Any, NamedTuple

from joulemeter.frameworks.rewrite import in_characters, rewrite


class Call(NamedTuple):
    """One call expression. Lines count from 1, columns from 0, in characters."""

    line: int
    column: int
    end_line: int
    end_column: int
    text: str
    api: str | None
    """The dotted name, where the source makes it sure; None: decided when it runs."""
    wrapped: bool
    reason: str | None
    """Why it is not wrapped."""


def calls(source: str, filename: str = "<source>") -> list[Call]:
    """Every call expression of ``source``, in reading order; raises SyntaxError, and RecursionError where it
    nests deeper than can be walked."""
    tree = ast.parse(source, filename)
    names = Names(tree)
    before = {
        spot(node): (text_of(source, node), names.api(node.func))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    made = rewrite(tree)
    skipped = {spot(node): reason for node, reason in made.skipped}
    whole = None if compiles(made.tree, filename) else "rewritten, the source nests too deeply for Python"
    found = []
    for at in sorted(before):
        text, api = before[at]
        line, column, end_line, end_column = characters(source, at)
        reason = whole or skipped.get(at)
        found.append(Call(line, column, end_line, end_column, text, api, reason is None, reason))
    return found


def compiles(tree: ast.Module, filename: str) -> bool:
    """Whether Python can compile a rewritten tree, whose calls nest twice as deep as the source's."""
    try:
        compile(tree, filename, "exec", dont_inherit=True)
    except RecursionError:
        return False
    return True


def spot(node: Any) -> tuple[int, int, int, int]:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def text_of(source: str, node: ast.expr) -> str:
    """The source of an expression; in an f-string of Python before 3.12, as it is unparsed."""
    text = ast.get_source_segment(source, node) or ""
    try:
        same = ast.dump(ast.parse(text.strip(), mode="eval").body) == ast.dump(node)
    except SyntaxError:
        same = False
    return text if same else ast.unparse(node)


def characters(source: str, at: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """A spot whose columns are bytes, as ``ast`` has it, with columns in characters."""
    if source.isascii():
        return at
    lines = source.split("\n")
    line, column, end_line, end_column = at
    return (
        line,
        in_characters(lines[line - 1], column),
        end_line,
        in_characters(lines[end_line - 1], end_column),
    )


class Names:
    """What the names of a module are bound to, where that is sure.

    A name counts if it is bound once in the whole source: by an import, or by an assignment of
    something that is itself sure. Star imports bind nothing for sure, and unsettle what they might bind.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._bound: dict[str, list[Any]] = {}
        self._lines: dict[str, int] = {}
        self._last_star = 0
        """The line of the last star import: what was bound before it may be bound by it again."""
        for node in ast.walk(tree):
            self._bind(node)

    def _bind(self, node: ast.AST) -> None:
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    name = alias.asname or alias.name.partition(".")[0]
                    self._add(name, alias.name if alias.asname else "")
                    self._lines[name] = node.lineno
            case ast.ImportFrom(module=module, names=aliases, level=level):
                for alias in aliases:
                    if alias.name == "*":
                        self._last_star = max(self._last_star, node.lineno)
                    name = alias.asname or alias.name
                    self._add(name, f"{module}.{alias.name}" if module and not level else None)
                    self._lines[name] = node.lineno
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self._add(name, value)
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                self._bound.setdefault(name, []).append(node)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self._add(name, None)
            case ast.arg(arg=name) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                self._add(name, None)
            case ast.MatchMapping(rest=str(name)) | ast.ExceptHandler(name=str(name)):
                self._add(name, None)

    def _add(self, name: str, what: Any) -> None:
        known = self._bound.setdefault(name, [])
        if what == "":
            if "" not in known:  # `import a.b` and `import a.c` bind the same `a`
                known.append(what)
        elif what is None or isinstance(what, str) or not isinstance(what, ast.Constant):
            known.append(what)

    def api(self, callee: ast.expr, depth: int = 0) -> str | None:
        """The dotted name of a callee; None where it is not sure."""
        match callee:
            case ast.Attribute(value=value, attr=attr):
                owner = self.api(value, depth)
                return None if owner is None else f"{owner}.{attr}"
            case ast.Name(id=name):
                return self._name(name, depth)
        return None

    def _name(self, name: str, depth: int) -> str | None:
        bindings = self._bound.get(name, [])
        imports = [each for each in bindings if isinstance(each, str)]
        if len(bindings) == 1 and imports and self._lines[name] > self._last_star:
            return imports[0] or name
        stores = [each for each in bindings if isinstance(getattr(each, "ctx", None), ast.Store)]
        values = [each for each in bindings if isinstance(getattr(each, "ctx", None), ast.Load)]
        if depth < 8 and len(bindings) == 2 and len(stores) == 1 and len(values) == 1:
            return self.api(values[0], depth + 1)
        return None
