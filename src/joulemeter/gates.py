"""Gates in pure Python: the twin of those in ``joulemeter._recorder``, where that was not built.

They meter the same calls. What they cannot do is stay out of sight: a metered call runs inside a frame
of this file, so ``sys._getframe(1)`` and tracebacks show it, which the extension's do not.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

CALL, ITER, AITER, AWAIT, YIELD_FROM, WITH, WITH_CALLS, ASYNC_WITH, MATMUL, IMATMUL = range(10)
ALL, ALONE, STEP = 1 << 8, 1 << 9, 1 << 10
DESCRIPTORS = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
MOST = 1 << 15
METHODS = {ITER: "__iter__", AITER: "__aiter__", AWAIT: "__await__", YIELD_FROM: "__iter__"}


class Gates:
    """Makes gates, and remembers what the judge said of each callee."""

    def __init__(self, lanes: Any, judge: Any, special: dict[Any, int]) -> None:
        self.lanes = lanes
        self.judge = judge
        self.special = special
        self.forget()

    def gate(self, kind: int, place: Any) -> Gate:
        """A gate of that kind at that place."""
        return Gate(self, kind, place)

    def forget(self) -> None:
        """Forgets its decisions: the metered APIs have changed."""
        self.modules: dict[Any, bool] = {}
        self.functions: dict[tuple[str, str], Any] = {}
        self.classes: weakref.WeakKeyDictionary[type, dict[Any, Any]] = weakref.WeakKeyDictionary()
        self.objects: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
        self.kept: dict[Any, Any] = {}

    def decide(self, callee: Any) -> Any:  # noqa: PLR0911 - one line for each kind of callable
        """The API name of a callee; a rule (int) for a builtin that iterates; None: not metered."""
        kind = type(callee)
        if kind is types.FunctionType:
            return self._function(callee)
        if kind is types.MethodType:
            return self._bound(callee)
        if kind is types.BuiltinFunctionType or kind is types.MethodWrapperType:
            return self._builtin(callee)
        if isinstance(callee, type):
            return self._class(callee, None, callee, callee)
        if kind in DESCRIPTORS:
            return self._class(callee.__objclass__, callee.__name__, callee.__name__, callee)
        if kind is functools.partial:
            return self.decide(callee.func)
        decision = self._class(kind, "__call__", "__call__", callee)
        return self._object(callee) if decision is True else self._kept(decision, callee, callee)

    def use(self, thing: Any, method: str) -> Any:
        """The API name of what is iterated, awaited or entered; None: not metered."""
        if type(thing) is contextlib._GeneratorContextManager:
            thing = thing.gen
        for kind, frame in SUSPENDED.items():
            if type(thing) is kind:
                home: Any = getattr(getattr(thing, frame), "f_globals", {}).get("__name__")
                return self._named(home, thing.__qualname__, thing) if self._module(home) else None
        decision = self._class(type(thing), method, method, thing)
        return decision if isinstance(decision, str) else None

    def _module(self, name: Any) -> bool:
        if not isinstance(name, str):
            return False
        known = self.modules.get(name)
        if known is None:
            known = self.modules[name] = bool(self.judge.module(name))
        return known

    def _named(self, module: str, qualname: str, callee: Any) -> Any:
        key = (module, qualname)
        if key not in self.functions:
            if len(self.functions) > MOST:
                self.functions.clear()
            self.functions[key] = self.judge.function(module, qualname, callee)
        return self.functions[key]

    def _function(self, callee: types.FunctionType) -> Any:
        if self._module(callee.__module__):
            decision = self._named(callee.__module__, callee.__qualname__, callee)
            return self._object(callee) if decision is True else decision
        home = callee.__globals__.get("__name__")
        return self._object(callee) if home != callee.__module__ and self._module(home) else None

    def _bound(self, callee: types.MethodType) -> Any:
        function = callee.__func__
        if not isinstance(function, types.FunctionType):
            return self.decide(function)
        owner = callee.__self__ if isinstance(callee.__self__, type) else type(callee.__self__)
        decision = self._class(owner, function.__name__, function.__name__, function)
        return self._function(function) if decision is None or isinstance(decision, bool) else decision

    def _builtin(self, callee: Any) -> Any:
        module, bound = getattr(callee, "__module__", None), callee.__self__
        if self._module(module):
            return self._named(str(module), callee.__qualname__, callee)
        if bound is None or isinstance(bound, types.ModuleType):
            return self.special.get(callee)
        kind = bound if isinstance(bound, type) else type(bound)
        decision = self._class(kind, None, ("builtin", callee.__name__), callee)
        return self._kept(decision, (bound, callee.__name__), callee)

    def _class(self, kind: type, method: str | None, key: Any, callee: Any) -> Any:
        known = self.classes.setdefault(kind, {})
        if key is kind:
            key = None
        if key not in known:
            known[key] = self.judge.owner(kind, method, callee)
        return known[key]

    def _kept(self, decision: Any, key: Any, callee: Any) -> Any:
        if decision is not False:
            return decision
        if key not in self.kept:
            self.kept[key] = self.judge.thing(callee, None, callee)
        return self.kept[key]

    def _object(self, callee: Any) -> Any:
        try:
            known = self.objects.get(callee, self)
        except TypeError:
            return self.judge.thing(callee, None, callee)
        if known is self:
            known = self.objects[callee] = self.judge.thing(callee, None, callee)
        return known


SUSPENDED: dict[Any, str] = {
    types.GeneratorType: "gi_frame",
    types.CoroutineType: "cr_frame",
    types.AsyncGeneratorType: "ag_frame",
}


class Entry:
    """One API called at one place: its site, and how often it was called."""

    __slots__ = ("count", "next", "site")

    def __init__(self, site: int) -> None:
        self.site = site
        self.count = 0
        self.next = 1


class Gate:
    """Stands before one expression; hands it back as it is, or metered."""

    __slots__ = ("_entries", "_gates", "kind", "place")

    def __init__(self, gates: Gates, kind: int, place: Any) -> None:
        self.kind = kind
        self.place = place
        self._gates = gates
        self._entries: dict[str, Entry] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied into another process, a gate is Python's own function that hands its argument back."""
        if self.kind >= MATMUL:
            return functools.partial, (operator.matmul if self.kind == MATMUL else operator.imatmul,)
        return functools.partial, (typing.cast, None)

    def __call__(self, thing: Any, *more: Any) -> Any:
        if self.kind == CALL:
            return self._call(thing)
        if self.kind >= MATMUL:
            return self._multiply(thing, *more)
        decision = self._gates.use(thing, METHODS.get(self.kind, "__enter__"))
        return thing if decision is None else USES[self.kind](self, thing, self.entry(decision))

    def _call(self, callee: Any) -> Any:
        decision = self._gates.decide(callee)
        if decision is None:
            return callee
        if decision is ...:
            return Metered(callee, functools.partial(self._read, callee))
        if isinstance(decision, int):
            return Metered(callee, functools.partial(self._consume, callee, decision))
        return Metered(callee, functools.partial(self._run, callee, self.entry(decision)))

    def entry(self, name: str) -> Entry:
        known = self._entries.get(name)
        if known is None:
            known = self._entries[name] = Entry(self._gates.judge.site(self.place, name))
        return known

    def within(self, entry: Entry, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls ``function`` inside a span."""
        lanes = self._gates.lanes
        lanes.enter(entry.site)
        try:
            return function(*arguments)
        finally:
            lanes.exit()

    def _run(self, callee: Any, entry: Entry, /, *arguments: Any, **named: Any) -> Any:
        self._describe(entry, callee, arguments, named)
        lanes = self._gates.lanes
        lanes.enter(entry.site)
        try:
            return callee(*arguments, **named)
        finally:
            lanes.exit()

    def _describe(self, entry: Entry, callee: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        entry.count += 1
        if entry.count >= entry.next:
            entry.next = entry.count + (1 if entry.count < 4 else entry.count // 2)
            values = (*arguments, *named.values())
            self._gates.judge.describe(entry.site, entry.count, values, tuple(named) or None, callee)

    def _read(self, callee: Any, /, *arguments: Any, **named: Any) -> Any:
        for each in (*arguments, *named.values()):
            if isinstance(each, types.FunctionType):
                self._gates.judge.restore(each)
        return callee(*arguments, **named)

    def _consume(self, callee: Any, rule: int, /, *arguments: Any, **named: Any) -> Any:
        if rule & STEP:
            decision = (
                self._gates.use(arguments[0], "__iter__" if rule & 1 else "__next__") if arguments else None
            )
            if decision is None:
                return callee(*arguments, **named)
            return self.within(self.entry(decision), callee, *arguments)
        if rule & ALONE and len(arguments) != 1:
            return callee(*arguments, **named)
        wrapped = list(arguments)
        for index, each in enumerate(arguments):
            if (rule & ALL or rule & 1 << index) and iterable(each):
                decision = self._gates.use(each, "__iter__")
                if decision is not None:
                    wrapped[index] = iterate(self, each, self.entry(decision))
        return callee(*wrapped, **named)

    def _multiply(self, a: Any, b: Any) -> Any:
        multiply = operator.matmul if self.kind == MATMUL else operator.imatmul
        decision = self._gates.use(a, "__matmul__") or self._gates.use(b, "__matmul__")
        if decision is None:
            return multiply(a, b)
        entry = self.entry(decision)
        self._describe(entry, None, (a, b), {})
        return self.within(entry, multiply, a, b)


def iterable(thing: Any) -> bool:
    return hasattr(type(thing), "__iter__") or hasattr(type(thing), "__getitem__")


class Metered:
    """A callee that runs in a span. What Python asks of it (its name, for a message) is the callee's own."""

    def __init__(self, inner: Any, run: Callable[..., Any]) -> None:
        object.__setattr__(self, "_metered", (inner, run))

    def __call__(self, /, *arguments: Any, **named: Any) -> Any:
        return object.__getattribute__(self, "_metered")[1](*arguments, **named)

    def __getattribute__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_metered")[0], name)

    def __str__(self) -> str:
        return str(object.__getattribute__(self, "_metered")[0])


def iterate(gate: Gate, thing: Any, entry: Entry) -> Any:
    """Something that iterates, metered, once it is asked to; sets are left to Python, which looks inside."""
    return thing if isinstance(thing, set | frozenset) else Iterable(gate, thing, entry)


class Iterable:
    """What will be iterated: a span for the making of the iterator."""

    def __init__(self, gate: Gate, thing: Any, entry: Entry) -> None:
        self._gate, self._inner, self._entry = gate, thing, entry

    def __iter__(self) -> Iterator:
        return Iterator(self._gate, self._gate.within(self._entry, iter, self._inner), self._entry)

    def __length_hint__(self) -> int:
        hint = operator.length_hint(self._inner, -1)
        return NotImplemented if hint < 0 else hint


class Iterator:
    """An iteration: a span for each next. To send or to throw is asked of the iterator itself."""

    def __init__(self, gate: Gate, inner: Any, entry: Entry) -> None:
        self._gate, self._inner, self._entry = gate, inner, entry

    def __iter__(self) -> Iterator:
        return self

    def __next__(self) -> Any:
        return self._gate.within(self._entry, next, self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_inner"), name)

    def __reduce__(self) -> Any:
        return self._inner.__reduce__()


class Steps:
    """An awaitable or generator: a span for each step."""

    def __init__(self, gate: Gate, thing: Any, entry: Entry) -> None:
        self._gate, self._entry = gate, entry
        plain = isinstance(thing, types.CoroutineType | types.GeneratorType)
        self._inner = thing if plain else type(thing).__await__(thing)

    def __await__(self) -> Steps:
        return self

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        if value is None and not hasattr(self._inner, "send"):
            return self._gate.within(self._entry, next, self._inner)
        return self._gate.within(self._entry, self._inner.send, value)

    def throw(self, *error: Any) -> Any:
        return self._gate.within(self._entry, self._inner.throw, *error)

    def close(self) -> None:
        self._gate.within(self._entry, self._inner.close)


class AsyncIterator:
    """An asynchronous iteration."""

    def __init__(self, gate: Gate, thing: Any, entry: Entry) -> None:
        self._gate, self._entry = gate, entry
        self._inner = gate.within(entry, aiter, thing)

    def __aiter__(self) -> AsyncIterator:
        return self

    def __anext__(self) -> Any:
        return Steps(
            self._gate, self._gate.within(self._entry, type(self._inner).__anext__, self._inner), self._entry
        )


class Manager:
    """A ``with`` block: one span from entry to exit, or one for each end where it may be suspended."""

    def __init__(self, gate: Gate, thing: Any, entry: Entry) -> None:
        self._gate, self._inner, self._entry = gate, thing, entry

    def __enter__(self) -> Any:
        if self._gate.kind == WITH_CALLS:
            return self._gate.within(self._entry, type(self._inner).__enter__, self._inner)
        lanes = self._gate._gates.lanes
        lanes.enter(self._entry.site)
        try:
            return type(self._inner).__enter__(self._inner)
        except BaseException:
            lanes.exit()
            raise

    def __exit__(self, *error: Any) -> Any:
        if self._gate.kind == WITH_CALLS:
            return self._gate.within(self._entry, type(self._inner).__exit__, self._inner, *error)
        try:
            return type(self._inner).__exit__(self._inner, *error)
        finally:
            self._gate._gates.lanes.exit()

    def __aenter__(self) -> Any:
        return self._awaitable("__aenter__")

    def __aexit__(self, *error: Any) -> Any:
        return self._awaitable("__aexit__", *error)

    def _awaitable(self, name: str, *arguments: Any) -> Any:
        made = self._gate.within(self._entry, getattr(type(self._inner), name), self._inner, *arguments)
        return Steps(self._gate, made, self._entry)


def _manage(gate: Gate, thing: Any, entry: Entry) -> Any:
    name = "__aexit__" if gate.kind == ASYNC_WITH else "__exit__"
    return Manager(gate, thing, entry) if hasattr(type(thing), name) else thing


def _wait(gate: Gate, thing: Any, entry: Entry) -> Any:
    drivable = isinstance(thing, types.CoroutineType) or hasattr(type(thing), "__await__")
    return Steps(gate, thing, entry) if drivable else thing


def _iterate(gate: Gate, thing: Any, entry: Entry) -> Any:
    return iterate(gate, thing, entry) if iterable(thing) else thing


def _delegate(gate: Gate, thing: Any, entry: Entry) -> Any:
    return Steps(gate, thing, entry) if type(thing) is types.GeneratorType else _iterate(gate, thing, entry)


USES: dict[int, Callable[[Gate, Any, Entry], Any]] = {
    ITER: _iterate,
    AITER: lambda gate, thing, entry: (
        AsyncIterator(gate, thing, entry) if hasattr(type(thing), "__aiter__") else thing
    ),
    AWAIT: _wait,
    YIELD_FROM: _delegate,
    WITH: _manage,
    WITH_CALLS: _manage,
    ASYNC_WITH: _manage,
}
