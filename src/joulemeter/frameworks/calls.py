"""Whose call is it: judges callees for the gates of rewritten code, names them, describes arguments.

A gate asks once per callee and remembers. A function belongs to the library whose module it names; a
bound method to the class that defines it, or whose method a user's class overrides; a class, and an
instance that is called, to the first library class among its bases. Nothing is guessed from names in
the source.
"""

from __future__ import annotations

import collections
import difflib
import functools
import itertools
import math
import sys
import types
from collections.abc import Iterable
from importlib.machinery import PathFinder
from typing import Any

from joulemeter.frameworks import tracing
from joulemeter.frameworks.describe import Seen
from joulemeter.frameworks.libraries import ALSO, KNOWN, PUBLIC, UFUNCS
from joulemeter.span import SpanSink

PER_OBJECT = True
"""An answer: each object of this class is to be asked about."""
READER = ...
"""An answer: it reads the bytecode of what it is given."""

KEPT = False
"""An answer: as PER_OBJECT, of objects that live as long as their library and take no weak reference."""

ALL, ALONE, STEP = 1 << 8, 1 << 9, 1 << 10
CONSUMERS: dict[Any, int] = {
    **dict.fromkeys((enumerate, list, tuple, set, frozenset, sorted, any, all, sum, math.fsum, math.prod), 1),
    **dict.fromkeys((min, max), 1 | ALONE),
    filter: 2,
    map: sum(1 << index for index in range(1, 8)),
    zip: ALL,
    iter: STEP | 1,
    next: STEP,
    functools.reduce: 2,
    collections.deque: 1,
    **dict.fromkeys((itertools.islice, itertools.cycle, itertools.tee, itertools.groupby), 1),
    **dict.fromkeys((itertools.accumulate, itertools.pairwise, itertools.permutations), 1),
    **dict.fromkeys((itertools.combinations, itertools.combinations_with_replacement), 1),
    **dict.fromkeys((itertools.chain, itertools.zip_longest, itertools.product), ALL),
    **dict.fromkeys((itertools.takewhile, itertools.dropwhile, itertools.filterfalse), 2),
    itertools.starmap: 2,
    itertools.compress: 1 | 2,
}
"""Builtins that iterate over an argument. Bit i: argument i; ALL: all of them; ALONE: only when it stands
alone; STEP: the call itself is one step of the library's."""
METHODS: dict[tuple[type, str], int] = {
    (list, "extend"): 1,
    (collections.deque, "extend"): 1,
    (collections.deque, "extendleft"): 1,
    (set, "update"): ALL,
    (str, "join"): 1,
}
"""The same for methods of builtin objects, by class and name."""


class Judge:
    """Decides for gates what is metered and under what name; ``sink`` gets the sites."""

    def __init__(self, sink: SpanSink, apis: Iterable[str] = ()) -> None:
        """``apis`` are dotted prefixes; none: whatever of KNOWN is imported by the sources rewritten."""
        self._sink = sink
        self._chosen = tuple(apis)
        self._prefixes: tuple[str, ...] = ()
        self._packages: frozenset[str] = frozenset()
        self._seen: dict[int, Seen] = {}
        self._traced: set[str] = set()
        self._take(self._chosen)

    def imported(self, names: Iterable[str]) -> bool:
        """Takes note of what a source imports; whether that changes what is metered."""
        new = () if self._chosen else tuple(sorted(KNOWN.intersection(names) - set(self._prefixes)))
        if new:
            self._take((*self._prefixes, *new))
        return bool(new)

    def _take(self, prefixes: tuple[str, ...]) -> None:
        self._prefixes = prefixes
        tops = {prefix.partition(".")[0] for prefix in prefixes}
        self._packages = frozenset(tops.union(*(ALSO.get(top, ()) for top in tops)))

    def module(self, name: str) -> bool:
        """Whether code of this module may be a library's (or reads bytecode): the full name decides."""
        top = name.partition(".")[0]
        return top in self._packages or top in tracing.READERS

    def function(self, module: str, qualname: str | None, callee: Any) -> Any:
        """The API name of a function of a module that ``module`` let pass; None: not metered."""
        if self._reads(module):
            return READER
        name = qualname or str(getattr(callee, "__name__", ""))
        return self._if_metered(public_name(module, name, callee), module)

    def owner(self, kind: type, method: str | None, callee: Any) -> Any:
        """The API name of a method of ``kind``; with no name: of its construction, if ``callee`` is
        ``kind``, else of the builtin method ``callee``. For what iterates over an argument: its rule."""
        if method is None and callee is not kind:
            return METHODS.get((kind, str(callee.__name__))) or self._builtin_method(kind, callee)
        if method is None and kind in CONSUMERS:
            return CONSUMERS[kind]
        for base in kind.__mro__:
            module = module_of(base)
            if not module or not self.module(module):
                continue
            if tracing.is_reader_class(base) and method is None:
                return READER
            if not self._reads(module) and (method is None or offers(base, method, kind)):
                return self._method(kind, base, module, method)
        return PER_OBJECT if method == "__call__" and answers_itself(kind) else None

    def _method(self, kind: type, base: type, module: str, method: str | None) -> Any:
        """The API name of a method that ``base`` offers to ``kind``, or whom to ask about it."""
        if method == "__call__" and tracing.traces(kind):
            return PER_OBJECT
        if method == "__call__" and is_ufunc(kind):
            return KEPT
        suffix = "" if method is None else f".{method}"
        return self._if_metered(self._shown(kind, base) + suffix, module)

    def thing(self, callee: Any, _none: None, _again: Any) -> str | None:
        """The API name of one object that is called: a traced function, or one that names its module."""
        if is_ufunc(type(getattr(callee, "__self__", callee))):
            return self._if_metered(ufunc_name(callee), "numpy")
        traced = tracing.traced_name(callee)
        if traced is not None:
            self._traced.add(traced)
            return traced if self._if_metered(traced, traced) else None
        module = getattr(callee, "__module__", None)
        if isinstance(callee, types.FunctionType) and not (isinstance(module, str) and self.module(module)):
            module = callee.__globals__.get("__name__")
            return self._if_metered(f"{module}.{callee.__code__.co_qualname}", str(module))
        if not isinstance(module, str) or not self.module(module) or self._reads(module):
            return None
        name = getattr(callee, "__qualname__", None) or getattr(callee, "__name__", type(callee).__name__)
        return self._if_metered(public_name(module, str(name), callee), module)

    def _builtin_method(self, kind: type, callee: Any) -> Any:
        name = str(callee.__name__)
        base = next((base for base in kind.__mro__ if name in vars(base)), None)
        module = module_of(base) if base is not None else None
        if base is None or not module or not self.module(module) or self._reads(module):
            return None
        return KEPT if is_ufunc(kind) else self._if_metered(f"{self._shown(kind, base)}.{name}", module)

    def _shown(self, kind: type, base: type) -> str:
        """The name of ``base``, or, where that is internal, of a class of ``kind``'s that users know: one
        that derives from ``base`` if there is one."""
        metered = [each for each in kind.__mro__ if self.module(module_of(each) or "")]
        at = metered.index(base)
        names = [public_name(module_of(each) or "", each.__qualname__, each) for each in metered]
        return next(filter(known, [names[at], *reversed(names[:at]), *names[at + 1 :]]), names[at])

    def _reads(self, module: str) -> bool:
        top = module.partition(".")[0]
        return top in tracing.READERS and top not in self._packages

    def _if_metered(self, name: str, module: str) -> str | None:
        if any(covers(prefix, name) or covers(prefix, module) for prefix in self._prefixes):
            return name
        tops = {alias for prefix in self._prefixes if "." not in prefix for alias in ALSO.get(prefix, ())}
        return name if name.partition(".")[0] in tops or module.partition(".")[0] in tops else None

    def site(self, place: tuple[str, int, int, str], name: str) -> int:
        """The site of an API called at ``place`` (file, line, column, function)."""
        file, line, column, function = place
        site = self._sink.site(name, "call", file, line, column, function)
        if name in self._traced:
            self._of(site).traced = True
        return site

    def describe(
        self, site: int, count: int, values: tuple[Any, ...], names: tuple[str, ...] | None, callee: Any
    ) -> None:
        """Takes note of the arguments of one call, the ``count``-th of its site."""
        seen = self._of(site)
        seen.take(count, values, names or (), callee)
        if seen.described & (seen.described - 1) == 0:
            self._sink.describe(site, seen.summary())

    def flush(self) -> None:
        """Writes every site's distributions as they stand."""
        for site, seen in self._seen.items():
            self._sink.describe(site, seen.summary())

    def restore(self, function: types.FunctionType) -> None:
        """Gives ``function`` the code that its author wrote."""
        tracing.restore(function)

    def _of(self, site: int) -> Seen:
        return self._seen.setdefault(site, Seen())


def covers(prefix: str, name: str) -> bool:
    """Whether a dotted name lies under a dotted prefix."""
    return name == prefix or name.startswith(prefix + ".")


def unknown(api: str) -> tuple[str, str, list[str]] | None:
    """For a dotted prefix that leads nowhere in a library that is loaded: the name up to which it leads, the
    part that is not there, and names that come near. Loads nothing; None where nothing can be said."""
    owner, *parts = api.split(".")
    found: Any = sys.modules.get(owner)
    for part in parts:
        if found is None:
            return None
        inside = sys.modules.get(
            f"{owner}.{part}", vars(found).get(part) if hasattr(found, "__dict__") else None
        )
        path = getattr(found, "__path__", None)
        if (
            inside is None
            and part not in dir(found)
            and not (path and PathFinder.find_spec(f"{owner}.{part}", path))
        ):
            return owner, part, difflib.get_close_matches(part, dir(found))
        owner, found = f"{owner}.{part}", inside
    return None


def module_of(kind: type) -> str | None:
    """The module that a class names, where it names one."""
    module = kind.__dict__.get("__module__") or getattr(kind, "__module__", None)
    return module if isinstance(module, str) else None


def offers(base: type, method: str, kind: type) -> bool:
    """Whether a class of ``kind``'s itself defines a method; iteration may also be by index, where it is not
    a builtin's own (``torch.Size`` is a tuple), and next goes with iter."""
    if method in base.__dict__:
        return True
    if method not in ("__iter__", "__next__"):
        return False
    by_index = not isinstance(getattr(kind, "__iter__", None), types.WrapperDescriptorType)
    return "__iter__" in base.__dict__ or (by_index and "__getitem__" in base.__dict__)


def is_ufunc(kind: type) -> bool:
    """Whether its instances are NumPy's functions of elements, which are told apart by their names alone."""
    return kind.__name__ == "ufunc" and kind.__module__ == "numpy"


def ufunc_name(callee: Any) -> str:
    """``numpy.add`` for a ufunc, ``numpy.add.reduce`` for a method of it; what nobody exports (NumPy's own
    ``frompyfunc``) is ``numpy.ufunc.__call__``."""
    ufunc = getattr(callee, "__self__", None)
    method = "" if ufunc is None else f".{callee.__name__}"
    ufunc = callee if ufunc is None else ufunc
    name = ufunc.__name__
    home = next((each for each in UFUNCS if loaded(each).get(name) is ufunc), None)
    return f"{home}.{name}{method}" if home else f"numpy.ufunc{method or '.__call__'}"


def answers_itself(kind: type) -> bool:
    """Whether instances may name another module than their class does: caches, compiled functions."""
    return (
        kind is functools._lru_cache_wrapper
        or "__module__" in kind.__dict__.get("__slots__", ())
        or (
            not kind.__flags__ & 1 << 9
            and kind.__module__ not in ("builtins", "types", "functools", "operator")
        )
    )


def known(name: str) -> bool:
    """Whether a dotted name is one that users write: nothing in it is internal."""
    parts = name.split(".")
    return parts[1:2] not in (["src"], ["python"]) and not any(part[:1] in ("_", "<") for part in parts)


@functools.lru_cache(maxsize=4096)
def prefixes(module: str) -> tuple[str, ...]:
    """The packages around a module that have no underscore in their names, outermost first, then the
    places where users know things of that library from."""
    parts = module.split(".")
    found = [".".join(parts[: end + 1]) for end in range(len(parts))]
    known = PUBLIC.get(parts[0].removesuffix("lib"), ())
    return tuple(name for name in dict.fromkeys([*found, *known]) if "._" not in name)


def public_name(module: str, qualname: str, thing: Any) -> str:
    """The dotted name under which users know ``thing``: where it is exported, else where it is defined."""
    exported = exported_name(thing)
    if exported is not None:
        return exported
    own = qualname.rpartition("_VariableFunctionsClass.")[2].removeprefix(module + ".")
    head, dot, rest = own.partition(".")
    defined = loaded(module).get(head, thing) if dot else thing
    exported = exported_name(defined) if dot else None
    if exported is not None:
        return exported + dot + rest
    for package in prefixes(module):
        if loaded(package).get(head) is defined:
            return f"{package}.{head}{dot}{rest}"
    return f"{module}.{head}{dot}{rest}"


def loaded(module: str) -> dict[str, Any]:
    found = sys.modules.get(module)
    return vars(found) if found is not None else {}


def exported_name(thing: Any) -> str | None:
    """The name that Keras or TensorFlow exported it under."""
    if isinstance(thing, types.MethodType | types.BuiltinFunctionType):
        return None
    for each in unwrapped(thing):
        own = getattr(each, "__dict__", {})
        path = own.get("_api_export_path")
        if isinstance(path, str | list | tuple):
            return path if isinstance(path, str) else min(path, key=len)
        names = own.get("_tf_api_names")
        if isinstance(names, tuple) and names:
            return "tensorflow." + str(names[0])
    return None


def unwrapped(thing: Any) -> list[Any]:
    """A function and what it wraps, outermost first."""
    chain = [thing]
    while isinstance(thing, types.FunctionType) and "__wrapped__" in thing.__dict__ and len(chain) < 8:
        thing = thing.__dict__["__wrapped__"]
        chain.append(thing)
    return chain


def special() -> dict[Any, int]:
    """The builtin functions that consume iterables, with their rules, for the engine."""
    return {each: rule for each, rule in CONSUMERS.items() if not isinstance(each, type)}
