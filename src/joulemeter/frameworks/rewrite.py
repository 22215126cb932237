"""Sources rewritten so that every call passes a gate: ``f(x)`` becomes ``gate(f)(x)``.

The gate of a place is a constant of the code it stands in: no name is added anywhere, and nothing is
looked up. While compiling, a marker string stands for it (the choice ``marker if True else None``,
which the compiler folds to the marker: a bare constant that is called would earn a SyntaxWarning);
``fill`` puts the gates in. Compiled modules are cached like bytecode.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, NamedTuple

MARK = "\0joulemeter gate "
KINDS = (
    "call",
    "iter",
    "aiter",
    "await",
    "yield from",
    "with",
    "with calls",
    "async with",
    "matmul",
    "imatmul",
)
"""What a gate stands before; the engine knows them by index."""
CALL, ITER, AITER, AWAIT, YIELD_FROM, WITH, WITH_CALLS, ASYNC_WITH, MATMUL, IMATMUL = range(10)


class Place(NamedTuple):
    """Where a gate stands. Lines count from 1, columns from 0, in bytes of UTF-8, as in ``ast``."""

    kind: int
    line: int
    column: int
    end_line: int
    end_column: int
    function: str


@dataclass(slots=True)
class Scope:
    """A function, class or module while its body is walked."""

    name: str
    suspends: bool = False
    """Whether it yields or awaits: a block inside it may then be left and come back to."""


@dataclass(slots=True)
class Rewritten:
    """A tree in which every gate is a marker, and what was found on the way."""

    tree: ast.Module
    places: list[tuple[int, Any, Scope]] = field(default_factory=list)
    skipped: list[tuple[ast.Call, str]] = field(default_factory=list)
    """Calls that pass no gate, with the reason."""
    imports: set[str] = field(default_factory=set)
    """Top-level names of the modules that it imports."""


NEVER_CALLABLE = frozenset(
    {
        ast.Constant,
        ast.Tuple,
        ast.List,
        ast.ListComp,
        ast.Dict,
        ast.DictComp,
        ast.Set,
        ast.SetComp,
        ast.GeneratorExp,
        ast.JoinedStr,
        ast.FormattedValue,
    }
)
LEAVES = frozenset(
    {
        type(None),
        ast.Name,
        ast.Constant,
        ast.alias,
        ast.Pass,
        ast.Break,
        ast.Continue,
        ast.Global,
        ast.Nonlocal,
    }
)
CHILDREN: dict[type[ast.AST], tuple[str, ...]] = {}
"""The fields of each node that may hold expressions or statements."""
NO_CHILD = {
    "ctx",
    "op",
    "ops",
    "id",
    "attr",
    "name",
    "arg",
    "lineno",
    "kind",
    "conversion",
    "is_async",
    "simple",
}
NO_CHILD |= {"type_comment", "type_ignores", "names", "module", "level", "rest", "kwd_attrs", "n", "s"}


def children(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields of a node of that kind that are walked."""
    known = CHILDREN.get(kind)
    if known is None:
        fields = () if kind in LEAVES or not issubclass(kind, ast.AST) else kind._fields
        known = tuple(name for name in fields if name not in NO_CHILD)
        if kind in (ast.MatchAs, ast.MatchMapping):
            known = tuple(name for name in kind._fields if name not in {"name", "rest"})
        CHILDREN[kind] = known
    return known


def spot(line: int) -> dict[str, int]:
    """The place of a node of which nothing but its line matters."""
    return {"lineno": line, "col_offset": 0, "end_lineno": line, "end_col_offset": 0}


EMPTY: Callable[[type[ast.AST]], Any] = ast.AST.__new__
"""Makes a node that has nothing yet."""
NEVER_RUN = ast.Constant(None, None, **spot(1))
"""The choice that is not taken; the compiler leaves it out."""


def rewrite(tree: ast.Module) -> Rewritten:
    """Puts a marker before every call of ``tree``, in place."""
    walk = Walk(tree)
    walk.run()
    return walk.made


class Walk:
    """One pass over a tree, with a stack of its own: sources nest deeper than Python recurses."""

    def __init__(self, tree: ast.Module) -> None:
        self.made = Rewritten(tree)
        self.places = self.made.places
        self.lazy_annotations = sys.version_info >= (3, 14)
        self.stack: list[tuple[Any, Scope]] = [(tree, Scope(""))]
        self.truths: dict[int, ast.Constant] = {}

    def run(self) -> None:
        """Rewrites all that is on the stack, and what lies in it."""
        stack, handlers, fields = self.stack, HANDLERS, CHILDREN
        while stack:
            node, scope = stack.pop()
            kind = type(node)
            if (handler := handlers.get(kind)) is not None:
                scope = handler(self, node, scope) or scope
                if scope is DONE:
                    continue
            names = fields.get(kind)
            if names is None:
                names = children(kind)
            for name in names:
                child = getattr(node, name)
                if child.__class__ is list:
                    for each in child:
                        if each.__class__ not in LEAVES:
                            stack.append((each, scope))
                elif child is not None and child.__class__ not in LEAVES:
                    stack.append((child, scope))

    def gate(self, kind: int, at: Any, scope: Scope, place: Any, *arguments: Any) -> Any:
        """``gate(arguments…)``, located at the node ``at``, for the node ``place``."""
        line = at.lineno
        where = {
            "lineno": line,
            "col_offset": at.col_offset,
            "end_lineno": at.end_lineno,
            "end_col_offset": at.end_col_offset,
        }
        # Nodes are made empty and then given all they hold at once: half the time of their constructors.
        marker, chosen, call = EMPTY(ast.Constant), EMPTY(ast.IfExp), EMPTY(ast.Call)
        marker.__dict__.update(where, value=MARK + str(len(self.places)))
        chosen.__dict__.update(where, test=self.true_at(line), body=marker, orelse=NEVER_RUN)
        call.__dict__.update(where, func=chosen, args=list(arguments), keywords=[])
        self.places.append((kind, place, scope))
        return call

    def true_at(self, line: int) -> ast.Constant:
        """A true constant on a line: trees may share nodes, and of this one nothing but its line is left."""
        known = self.truths.get(line)
        if known is None:
            known = self.truths[line] = ast.Constant(True, None, **spot(line))
        return known

    def push(self, scope: Scope, *nodes: Any) -> None:
        """Puts nodes, or lists of them, on the stack, to be rewritten in ``scope``."""
        stack = self.stack
        for node in nodes:
            if node.__class__ is list:
                for each in node:
                    if each.__class__ not in LEAVES:
                        stack.append((each, scope))
            elif node.__class__ not in LEAVES:
                stack.append((node, scope))

    def call(self, node: ast.Call, scope: Scope) -> Scope:
        """``f(x)`` becomes ``gate(f)(x)``: the gate hands back ``f`` where it is not metered."""
        callee = node.func
        self.push(scope, callee, node.args, node.keywords)
        if callee.__class__ in NEVER_CALLABLE:
            self.made.skipped.append((node, "a literal cannot be called"))
        elif isinstance(callee, ast.Name) and callee.id == "super":
            self.made.skipped.append((node, "super() must stand in the method itself"))
        else:
            where = Where(node, callee)
            node.func = self.gate(CALL, callee, scope, where, callee)
            if isinstance(callee, ast.Attribute):
                start_at_attribute(node, callee)
        return DONE

    def multiply(self, node: Any, scope: Scope) -> Scope | None:
        """``a @ b`` becomes a gate's call, with ``a`` and ``b`` evaluated in their order."""
        if not isinstance(node.op, ast.MatMult):
            return None
        left, right = node.left, node.right
        self.push(scope, left, right)
        made = self.gate(MATMUL, node, scope, Where(node, Where(left), Where(right)), left, right)
        node.__class__ = ast.Call
        node.func, node.args, node.keywords = made.func, made.args, []
        return DONE

    def multiply_in_place(self, node: Any, scope: Scope) -> Scope | None:
        """``a @= b`` of a name becomes ``a = gate(a, b)``; other targets would be evaluated twice."""
        if not isinstance(node.op, ast.MatMult) or not isinstance(node.target, ast.Name):
            return None
        target, value = node.target, node.value
        self.push(scope, value)
        read = ast.copy_location(ast.Name(target.id, ast.Load()), target)
        made = self.gate(IMATMUL, node, scope, Where(node, Where(target), Where(value)), read, value)
        node.__class__ = ast.Assign
        node.targets, node.value, node.type_comment = [target], made, None
        return DONE

    def iterate(self, node: Any, scope: Scope) -> Scope | None:
        """The iterable of a loop or comprehension goes through a gate, which meters each step."""
        iterable = node.iter
        self.stack.append((iterable, scope))
        asynchronous = isinstance(node, ast.AsyncFor) or bool(getattr(node, "is_async", False))
        if asynchronous:
            scope.suspends = True
        if iterable.__class__ not in NEVER_CALLABLE:
            node.iter = self.gate(
                AITER if asynchronous else ITER, iterable, scope, itself(iterable), iterable
            )
            self.push(scope, *(getattr(node, name) for name in AROUND_ITER[type(node)]))
            return DONE
        self.stack.pop()
        return None

    def unpack(self, node: ast.Starred, scope: Scope) -> Scope | None:
        """``*x`` among arguments or items goes through a gate; ``*x`` among targets has none."""
        if not isinstance(node.ctx, ast.Load) or node.value.__class__ in NEVER_CALLABLE:
            return None
        value = node.value
        self.push(scope, value)
        node.value = self.gate(ITER, value, scope, itself(value), value)
        return DONE

    def assign(self, node: ast.Assign, scope: Scope) -> Scope | None:
        """``a, b = x`` iterates over x. In ``y = a, b = x`` the value itself is also kept: no gate then."""
        value = node.value
        unpacked = all(target.__class__ in (ast.Tuple, ast.List) for target in node.targets)
        if not unpacked or value.__class__ in NEVER_CALLABLE:
            return None
        self.push(scope, node.targets, value)
        node.value = self.gate(ITER, value, scope, itself(value), value)
        return DONE

    def enter(self, node: Any, scope: Scope) -> Scope:
        """Each manager of a ``with`` goes through a gate, which meters its entering and leaving."""
        asynchronous = isinstance(node, ast.AsyncWith)
        if asynchronous:
            scope.suspends = True
        for item in node.items:
            manager = item.context_expr
            self.push(scope, manager, item.optional_vars)
            kind = ASYNC_WITH if asynchronous else WITH
            item.context_expr = self.gate(kind, manager, scope, itself(manager), manager)
        self.push(scope, node.body)
        return DONE

    def suspend(self, node: Any, scope: Scope) -> Scope | None:
        """What is awaited or yielded from goes through a gate: a span is the time it runs itself."""
        scope.suspends = True
        if isinstance(node, ast.Yield):
            return None
        value = node.value
        self.push(scope, value)
        kind = AWAIT if isinstance(node, ast.Await) else YIELD_FROM
        node.value = self.gate(kind, value, scope, itself(value), value)
        return DONE

    def define(self, node: Any, scope: Scope) -> Scope:
        """A function: decorators, defaults and annotations are of the scope around, the body of its own."""
        self.decorate(node, scope)
        arguments = node.args
        self.push(scope, arguments.defaults, arguments.kw_defaults)
        inner = Scope(qualified(scope, node.name) + ".<locals>")
        if not self.lazy_annotations:
            everyone = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            everyone += [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
            self.push(scope, [each.annotation for each in everyone], node.returns)
        else:
            self.skip_annotations(arguments, node.returns)
        self.push(scope, getattr(node, "type_params", []))
        self.push(inner, node.body)
        return DONE

    def define_class(self, node: ast.ClassDef, scope: Scope) -> Scope:
        self.decorate(node, scope)
        self.push(scope, node.bases, node.keywords, getattr(node, "type_params", []))
        self.push(Scope(qualified(scope, node.name)), node.body)
        return DONE

    def define_lambda(self, node: ast.Lambda, scope: Scope) -> Scope:
        self.push(scope, node.args.defaults, node.args.kw_defaults)
        self.push(Scope(qualified(scope, "<lambda>") + ".<locals>"), node.body)
        return DONE

    def decorate(self, node: Any, scope: Scope) -> None:
        for index, decorator in enumerate(node.decorator_list):
            self.push(scope, decorator)
            node.decorator_list[index] = self.gate(CALL, decorator, scope, itself(decorator), decorator)

    def annotate(self, node: ast.AnnAssign, scope: Scope) -> Scope:
        """An annotation is evaluated, and so rewritten, unless the module makes annotations lazy."""
        self.push(scope, node.target, node.value)
        if self.lazy_annotations:
            self.skip_annotations(node.annotation)
        else:
            self.push(scope, node.annotation)
        return DONE

    def skip_annotations(self, *nodes: Any) -> None:
        for node in nodes:
            for each in ast.walk(node) if node is not None else ():
                if isinstance(each, ast.Call):
                    self.made.skipped.append((each, "an annotation is kept as text, and not run"))

    def take_import(self, node: ast.Import, scope: Scope) -> Scope:
        self.made.imports.update(alias.name.partition(".")[0] for alias in node.names)
        return DONE

    def take_import_from(self, node: ast.ImportFrom, scope: Scope) -> Scope:
        """Notes the library that is imported, and whether annotations are lazy."""
        if node.module and not node.level:
            self.made.imports.add(node.module.partition(".")[0])
            if node.module == "__future__" and any(alias.name == "annotations" for alias in node.names):
                self.lazy_annotations = True
        return DONE

    def body_first(self, node: ast.Module, scope: Scope) -> None:
        """Futures rule the whole module, and the stack is walked from its end."""
        for statement in node.body:
            if isinstance(statement, ast.ImportFrom):
                self.take_import_from(statement, scope)


class Where:
    """The extent of a node as it was before it was rewritten, and those of what its gate is given."""

    __slots__ = ("col_offset", "end_col_offset", "end_lineno", "given", "kind", "lineno")

    def __init__(self, node: Any, *given: Any) -> None:
        self.lineno, self.col_offset = node.lineno, node.col_offset
        self.end_lineno, self.end_col_offset = node.end_lineno, node.end_col_offset
        self.kind = node.__class__
        self.given = given


def itself(node: Any) -> Where:
    """The place of a gate that is given the whole of ``node``."""
    where = Where(node)
    where.given = (where,)
    return where


DONE = Scope("")
"""Returned by a handler that has seen to the node's children itself."""
AROUND_ITER: dict[type[ast.AST], tuple[str, ...]] = {
    ast.For: ("target", "body", "orelse"),
    ast.AsyncFor: ("target", "body", "orelse"),
    ast.comprehension: ("target", "ifs"),
}
HANDLERS: dict[type[ast.AST], Callable[[Walk, Any, Scope], Scope | None]] = {
    ast.Module: Walk.body_first,
    ast.Call: Walk.call,
    ast.BinOp: Walk.multiply,
    ast.AugAssign: Walk.multiply_in_place,
    ast.Starred: Walk.unpack,
    ast.Assign: Walk.assign,
    ast.For: Walk.iterate,
    ast.AsyncFor: Walk.iterate,
    ast.comprehension: Walk.iterate,
    ast.With: Walk.enter,
    ast.AsyncWith: Walk.enter,
    ast.Await: Walk.suspend,
    ast.Yield: Walk.suspend,
    ast.YieldFrom: Walk.suspend,
    ast.FunctionDef: Walk.define,
    ast.AsyncFunctionDef: Walk.define,
    ast.ClassDef: Walk.define_class,
    ast.Lambda: Walk.define_lambda,
    ast.AnnAssign: Walk.annotate,
    ast.Import: Walk.take_import,
    ast.ImportFrom: Walk.take_import_from,
}


def qualified(scope: Scope, name: str) -> str:
    return f"{scope.name}.{name}" if scope.name else name


def start_at_attribute(call: ast.Call, callee: ast.Attribute) -> None:
    """A method call that spans lines is traced at the line of the method's name (CPython's
    ``update_start_location_to_match_attr``); behind a gate, it has to be said."""
    if call.lineno == callee.end_lineno or callee.end_lineno is None or callee.end_col_offset is None:
        return
    plain = len(call.args) + len(call.keywords) < 29 and all(keyword.arg for keyword in call.keywords)
    if plain and not any(isinstance(argument, ast.Starred) for argument in call.args):
        call.began = call.lineno, call.col_offset  # type: ignore[attr-defined]
        gate: Any = call.func
        start = {"lineno": gate.lineno, "col_offset": gate.col_offset, "end_lineno": gate.end_lineno}
        start["end_col_offset"] = gate.end_col_offset
        # The gate is called on the name's line too, but what comes before it stays where it began.
        call.func = ast.IfExp(ast.Constant(True, None, **start), gate, NEVER_RUN, **start)
        call.lineno = gate.lineno = callee.end_lineno
        call.col_offset = gate.col_offset = max(0, callee.end_col_offset - len(callee.attr.encode()))


def in_characters(line: str, column: int) -> int:
    """A column in bytes of UTF-8, as ``ast`` has it, in characters."""
    return column if line.isascii() else len(line.encode()[:column].decode(errors="replace"))


class Compiled(NamedTuple):
    """Code whose gates are markers still: what is cached."""

    code: CodeType
    places: tuple[Place, ...]
    imports: tuple[str, ...]


def compiled(source: bytes | str, filename: str, flags: int = 0, optimize: int = -1) -> Compiled:
    """``source`` rewritten and compiled; raises what ``compile`` raises, ValueError for what it cannot."""
    if (MARK.strip("\0 ") if isinstance(source, str) else MARK.strip("\0 ").encode()) in source:  # type: ignore[operator]
        raise ValueError("it holds the text that marks gates")
    tree = compile(source, filename, "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True, optimize=optimize)
    made = rewrite(tree)
    code = compile(made.tree, filename, "exec", flags, dont_inherit=True, optimize=optimize)
    return Compiled(code, tuple(places(made)), tuple(sorted(made.imports)))


def places(made: Rewritten) -> list[Place]:
    """Where the markers stand, in their order."""
    return [
        Place(
            WITH_CALLS if kind == WITH and scope.suspends else kind,
            at.lineno,
            at.col_offset,
            at.end_lineno,
            at.end_col_offset,
            scope.name.removesuffix(".<locals>"),
        )
        for kind, at, scope in made.places
    ]


def fill(code: CodeType, gates: Callable[[int], Any]) -> CodeType:
    """``code`` with the gate of each index in the place of its marker, in nested code too."""
    changed = False
    constants: list[Any] = []
    for constant in code.co_consts:
        if constant.__class__ is str and constant.startswith(MARK):
            constants.append(gates(int(constant[len(MARK) :])))
            changed = True
        elif constant.__class__ is CodeType:
            constants.append(fill(constant, gates))
            changed = changed or constants[-1] is not constant
        else:
            constants.append(constant)
    return code.replace(co_consts=tuple(constants)) if changed else code
