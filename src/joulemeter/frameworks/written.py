"""A source with its gates written out: the same text with ``__joulemeter__(…)`` around what is gated.

Comments and line numbers stay. Before Python 3.12 the insides of f-strings have no place in the source, and
``{f(x)=}`` shows its own: such an f-string, if it calls, is written as the sum of its formatted parts, on the
lines it had.
"""

from __future__ import annotations

import ast
import re
import sys
from typing import Any, NamedTuple

from joulemeter.frameworks.rewrite import (
    AITER,
    ASYNC_WITH,
    AWAIT,
    CALL,
    IMATMUL,
    ITER,
    MATMUL,
    WITH,
    YIELD_FROM,
    Where,
    in_characters,
    rewrite,
)

GATE = "__joulemeter__"
IMPORT = f"from joulemeter.instrumented import gate as {GATE}"
METHODS = {CALL: "", ITER: ".iter", AITER: ".aiter", AWAIT: ".steps", YIELD_FROM: ".yield_from"}
METHODS |= {WITH: ".manager", ASYNC_WITH: ".manager", MATMUL: ".matmul", IMATMUL: ".imatmul"}
BARE = (ast.Yield, ast.YieldFrom, ast.NamedExpr, ast.GeneratorExp, ast.Starred)
"""Expressions that need parentheses of their own among arguments."""


class Edit(NamedTuple):
    """Text that stands for ``source[start:end]``; of edits at one place, the lower ``order`` comes first."""

    start: int
    end: int
    order: int
    text: str


def written(source: str, filename: str = "<source>") -> str:
    """``source`` with its gates written out; raises SyntaxError.

    The result runs wherever Joulemeter is installed, and does what the original does.
    """
    text = Text(source)
    tree = ast.parse(source, filename)
    edits = cut_f_strings(text, tree)
    made = rewrite(tree)
    for kind, where, _ in made.places:
        edits += edits_of(text, kind, where)
    return with_import(text.edited(edits), ast.parse(source, filename))


class Text:
    """A source, with places in it by line and column."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._lines = source.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)

    def span(self, node: Any) -> tuple[int, int]:
        """Where a node begins and ends, in characters from the start of the source."""
        began = getattr(node, "began", (node.lineno, node.col_offset))
        return self._at(*began), self._at(node.end_lineno, node.end_col_offset)

    def _at(self, line: int, column: int) -> int:
        return self._starts[line - 1] + in_characters(self._lines[line - 1], column)

    def operator(self, start: int, end: int) -> int:
        """Where the ``@`` is between two operands: not in a comment."""
        at = start
        while self.source[at] != "@" and at < end:
            at = self.source.index("\n", at) if self.source[at] == "#" else at + 1
        return at

    def edited(self, edits: list[Edit]) -> str:
        """The source with the edits made."""
        parts, last = [], 0
        for edit in sorted(edits, key=lambda edit: (edit.start, edit.order)):
            parts += [self.source[last : edit.start], edit.text]
            last = edit.end
        return "".join([*parts, self.source[last:]])


def edits_of(text: Text, kind: int, where: Where) -> list[Edit]:
    """The edits that write out one gate."""
    name = GATE + METHODS[kind]
    start, end = text.span(where)
    if kind == IMATMUL:
        target, value = where.given
        at = text.operator(text.span(target)[1], text.span(value)[0])
        named = text.source[slice(*text.span(target))]
        return [Edit(at, at + 2, 0, f"= {name}({named}, ("), Edit(end, end, -start, "))")]
    if kind == MATMUL:
        left, right = where.given
        at = text.operator(text.span(left)[1], text.span(right)[0])
        return [*around(start, end, name), Edit(at, at + 1, 0, ",")]
    (given,) = where.given
    return around(
        *text.span(given),
        name,
        bare=issubclass(given.kind if isinstance(given, Where) else type(given), BARE),
    )


def around(start: int, end: int, name: str, bare: bool = False) -> list[Edit]:
    """The edits that put a call of ``name`` around a stretch. Of stretches that begin together, the longer
    is the outer one; of those that end together, the one that begins later is the inner one."""
    before, after = (f"{name}((", "))") if bare else (f"{name}(", ")")
    return [Edit(start, start, start - end, before), Edit(end, end, -(1 << 40) - start, after)]


def cut_f_strings(text: Text, tree: ast.Module) -> list[Edit]:
    """Takes the outermost f-strings that call, and cannot be edited where they stand, out of ``tree``; the
    edits that write them otherwise."""
    edits = []
    cutter = Cutter(text)
    cutter.visit(tree)
    for node in cutter.cut:
        start, end = text.span(node)
        lines = text.source.count("\n", start, end)
        edits.append(Edit(start, end, 0, f"({plain(node)}" + "\n" * lines + ")"))
    return edits


class Cutter(ast.NodeTransformer):
    """Replaces f-strings that call by constants, and keeps them."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.cut: list[ast.JoinedStr] = []

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        """A constant, where the f-string calls, and has no places inside or shows its own source."""
        inside = list(ast.walk(node))
        editable = sys.version_info >= (3, 12) and not any(map(self.shows_itself, inside))
        if editable or not any(isinstance(each, GATED) for each in inside):
            return node
        self.cut.append(node)
        return ast.copy_location(ast.Constant(""), node)

    def shows_itself(self, node: ast.AST) -> bool:
        """Whether it is a field like ``{f(x)=}``, which shows the text of its expression."""
        if not isinstance(node, ast.FormattedValue):
            return False
        return SHOWN.match(self.text.source, self.text.span(node.value)[1]) is not None


SHOWN = re.compile(r"[\s)]*=")
GATED = (ast.Call, ast.MatMult, ast.Await, ast.YieldFrom, ast.comprehension, ast.Starred)


def plain(node: ast.JoinedStr) -> str:
    """An f-string with its gates, as a sum of formatted parts."""
    module = ast.Module([ast.Expr(node)], [])
    for each in ast.walk(module):  # inside f-strings places mean nothing; the gates need some
        if hasattr(each, "lineno") or isinstance(each, ast.expr | ast.stmt):
            each.lineno, each.col_offset, each.end_lineno, each.end_col_offset = 1, 0, 1, 0  # type: ignore[attr-defined]
    made = rewrite(module)
    kinds = [kind for kind, _, _ in made.places]
    return ast.unparse(Named(kinds).visit(Sums().visit(made.tree))).strip()


class Sums(ast.NodeTransformer):
    """Turns f-strings into sums: what is formatted first is still formatted before the next is evaluated."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        """``f'{a} b'`` as ``'{}'.format(a) + ' b'``."""
        total: ast.expr | None = None
        for part in node.values:
            piece = self.piece(part)
            total = piece if total is None else ast.BinOp(total, ast.Add(), piece)
        return total or ast.Constant("")

    def piece(self, part: ast.expr) -> ast.expr:
        """One part of an f-string as an expression."""
        if not isinstance(part, ast.FormattedValue):
            return part
        arguments: list[ast.expr] = []
        template = self.field(part, arguments)
        return ast.Call(ast.Attribute(ast.Constant(template), "format", ast.Load()), arguments, [])

    def field(self, part: ast.FormattedValue, arguments: list[ast.expr]) -> str:
        """The replacement field of one value, which is added to ``arguments``."""
        index = len(arguments)
        arguments.append(self.visit(part.value))
        conversion = f"!{chr(part.conversion)}" if part.conversion >= 0 else ""
        specification = ""
        if isinstance(part.format_spec, ast.JoinedStr):
            for each in part.format_spec.values:
                inner = isinstance(each, ast.FormattedValue)
                specification += self.field(each, arguments) if inner else str(each.value)  # type: ignore[arg-type,attr-defined]
        return f"{{{index}{conversion}{':' if specification else ''}{specification}}}"


class Named(ast.NodeTransformer):
    """Writes the markers of gates as calls by name."""

    def __init__(self, kinds: list[int]) -> None:
        self.kinds = kinds

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """The gate's name in the place of its marker."""
        from joulemeter.frameworks.rewrite import MARK

        if isinstance(node.body, ast.Constant) and str(node.body.value).startswith(MARK):
            method = METHODS[self.kinds[int(node.body.value[len(MARK) :])]]  # type: ignore[index]
            return ast.Name(GATE + method, ast.Load())
        return self.generic_visit(node)  # type: ignore[return-value]


def with_import(source: str, tree: ast.Module) -> str:
    """``source`` with the import of the gates, on a line that is there, where one can take it."""
    lines = source.split("\n")
    body = tree.body
    first = next(
        (index for index, statement in enumerate(body) if not stays_first(statement, index)), len(body)
    )
    if first > 0:
        end = body[first - 1].end_lineno or 1
        if first == len(body) or body[first].lineno > end:
            lines[end - 1] = joined(lines[end - 1], tree, end)
            return "\n".join(lines)
    at = (body[first].lineno if first < len(body) else 1) - 1
    if first < len(body) and simple(body[first]):
        column = in_characters(lines[at], body[first].col_offset)
        lines[at] = f"{lines[at][:column]}{IMPORT}; {lines[at][column:]}"
        return "\n".join(lines)
    free = next((index for index in range(free_from(lines), at) if not lines[index].strip()), None)
    if free is not None:
        lines[free] = IMPORT
        return "\n".join(lines)
    return "\n".join([*lines[:at], IMPORT, *lines[at:]])


def stays_first(statement: ast.stmt, index: int) -> bool:
    """Whether a statement must come before any other: the docstring, and imports from the future."""
    if isinstance(statement, ast.ImportFrom):
        return statement.module == "__future__"
    return index == 0 and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def joined(line: str, tree: ast.Module, number: int) -> str:
    """A line that ends with a simple statement, with the import behind it and before its comment."""
    end = max(in_characters(line, s.end_col_offset or 0) for s in tree.body if s.end_lineno == number)
    return f"{line[:end]}; {IMPORT}{line[end:]}"


def simple(statement: ast.stmt) -> bool:
    return not hasattr(statement, "body") and not isinstance(statement, ast.Match)


def free_from(lines: list[str]) -> int:
    """The first line that may hold a statement: not a shebang, nor an encoding."""
    return 2 if any("coding" in line for line in lines[:2]) else 1 if lines[0].startswith("#!") else 0
