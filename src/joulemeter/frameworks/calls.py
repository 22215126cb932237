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
import pkgutil
import sys
import types
from collections.abc import Iterable
from importlib.machinery import PathFinder
from typing import Any

from joulemeter.frameworks import tracing
from joulemeter.frameworks.describe import Seen
from joulemeter.frameworks.libraries import ALSO, KNOWN
from joulemeter.frameworks.names import (
    fortran_name,
    is_fortran,
    is_ufunc,
    known,
    module_of,
    public_name,
    renamed,
    ufunc_name,
    wrapper_name,
)
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
        if module.partition(".")[0] in tracing.READERS:
            return READER  # metered or not: what it is handed has to be the author's code
        if isinstance(callee, types.FunctionType) and renamed(callee):
            return PER_OBJECT
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
                return self._method(kind, base, module, method, callee)
        return PER_OBJECT if method == "__call__" and answers_itself(kind) else None

    def _method(self, kind: type, base: type, module: str, method: str | None, callee: Any) -> Any:
        """The API name of a method that ``base`` offers to ``kind``, or whom to ask about it."""
        if method == "__call__" and tracing.traces(kind):
            return PER_OBJECT
        if method == "__call__" and (is_ufunc(kind) or self._function_name(callee) is not None):
            return PER_OBJECT if kind.__weakrefoffset__ else KEPT
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
            return self._if_metered(wrapper_name(callee), str(callee.__globals__.get("__name__")))
        if is_fortran(type(callee)):
            return fortran_name(callee) if self.module("scipy") else None
        if not isinstance(module, str) or not self.module(module) or self._reads(module):
            return self._of_class(type(callee))
        name = callee.__name__ if isinstance(callee, types.FunctionType) else self._function_name(callee)
        if name is None:
            name = getattr(callee, "__qualname__", None) or getattr(callee, "__name__", type(callee).__name__)
        return self._if_metered(public_name(module, str(name), callee), module)

    def _of_class(self, kind: type) -> str | None:
        """The API name of calling what is no function of a library's, but an instance of its class."""
        for base in kind.__mro__:
            module = module_of(base) or ""
            if self.module(module) and not self._reads(module) and offers(base, "__call__", kind):
                return self._if_metered(self._shown(kind, base) + ".__call__", module)
        return None

    def _function_name(self, thing: Any) -> str | None:
        """The name of an object that stands for a library's function, and carries its name as functions do:
        ``numpy.sum``, ``jax.nn.relu``, ``torch.ops.aten.add``; None for any other."""
        own = getattr(thing, "__dict__", {})
        name, module = own.get("__name__"), getattr(thing, "__module__", None)
        return name if isinstance(name, str) and isinstance(module, str) and self.module(module) else None

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
    return name == prefix or name.startswith((prefix + ".", prefix + "("))


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


def unloaded(api: str) -> tuple[str, list[str]] | None:
    """For a dotted prefix in a library that was never loaded: the library, and prefixes with names of modules
    that come near, where no module has the name. Loads nothing; None for any other prefix."""
    owner, *parts = api.split(".")
    if not parts or owner in sys.modules:
        return None
    library, path = owner, list(sys.path)
    for at, part in enumerate(parts):
        spec = PathFinder.find_spec(owner, path)
        path = list(spec.submodule_search_locations or []) if spec is not None else []
        known = [module.name for module in pkgutil.iter_modules(path)]
        if part not in known:
            near = difflib.get_close_matches(part, known, n=1)
            return library, [".".join([library, *parts[:at], each, *parts[at + 1 :]]) for each in near]
        owner = f"{owner}.{part}"
    return library, []


def offers(base: type, method: str, kind: type) -> bool:
    """Whether a class of ``kind``'s itself defines a method; iteration may also be by index, where it is not
    a builtin's own (``torch.Size`` is a tuple), and next goes with iter."""
    if method in base.__dict__:
        return True
    if method not in ("__iter__", "__next__"):
        return False
    by_index = not isinstance(getattr(kind, "__iter__", None), types.WrapperDescriptorType)
    return "__iter__" in base.__dict__ or (by_index and "__getitem__" in base.__dict__)


def answers_itself(kind: type) -> bool:
    """Whether instances may name another module than their class does: caches, compiled functions (Cython's
    too, whose class has a ``__module__`` for each)."""
    return (
        kind is functools._lru_cache_wrapper
        or is_fortran(kind)
        or not isinstance(kind.__dict__.get("__module__"), str | None)
        or (
            not kind.__flags__ & 1 << 9
            and kind.__module__ not in ("builtins", "types", "functools", "operator")
        )
    )


def special() -> dict[Any, int]:
    """The builtin functions that consume iterables, with their rules, for the engine."""
    return {each: rule for each, rule in CONSUMERS.items() if not isinstance(each, type)}
