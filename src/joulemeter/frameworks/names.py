"""Under what names users know a library's functions: where it exports them, not where it defines them."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

from joulemeter.frameworks import tracing
from joulemeter.frameworks.libraries import MAKERS, PUBLIC, UFUNCS


def public_name(module: str, qualname: str, thing: Any) -> str:
    """The dotted name under which users know ``thing``: where it is exported, else where it is defined."""
    exported = exported_name(thing)
    if exported is not None:
        return exported
    if module.startswith("torch._ops."):
        module = module.replace("_ops", "ops", 1)
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


@functools.lru_cache(maxsize=4096)
def prefixes(module: str) -> tuple[str, ...]:
    """The packages around a module that have no underscore in their names, outermost first, then the
    places where users know things of that library from."""
    parts = module.split(".")
    found = [".".join(parts[: end + 1]) for end in range(len(parts))]
    known = PUBLIC.get(parts[0].removesuffix("lib"), ())
    return tuple(name for name in dict.fromkeys([*found, *known]) if "._" not in name)


def known(name: str) -> bool:
    """Whether a dotted name is one that users write: nothing in it is internal."""
    parts = name.split(".")
    return parts[1:2] not in (["src"], ["python"]) and not any(part[:1] in ("_", "<") for part in parts)


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


def is_fortran(kind: type) -> bool:
    """Whether its instances are BLAS's and LAPACK's functions, as SciPy has them."""
    return kind.__name__ == "fortran" and kind.__module__ == "builtins"


def fortran_name(callee: Any) -> str | None:
    """``scipy.linalg.blas.dgemm``: such a function says no module; None where nobody exports it."""
    name = str(callee.__name__).removeprefix("function ")
    homes = ("scipy.linalg.blas", "scipy.linalg.lapack")
    return next((f"{home}.{name}" for home in homes if loaded(home).get(name) is callee), None)


def renamed(function: types.FunctionType) -> bool:
    """Whether a library made a function in another, and gave it a name afterwards: those of one making share
    their qualified name (``torch.nn.functional.max_pool2d`` is ``boolean_dispatch.<locals>.fn``)."""
    _, inside, own = function.__qualname__.rpartition(".<locals>.")
    return bool(inside) and own != function.__name__


def wrapper_name(function: types.FunctionType) -> str:
    """``jax.grad(loss)`` for the function that ``jax.grad`` made of the user's ``loss``, whose name it bears;
    ``torch.no_grad(test)`` for one that runs in a library's context. What made it is looked for through the
    library's internal wrappers around it."""
    shown, inner = maker_name(function), within(function)
    for _ in range(8):
        if known(shown) or inner is None:
            break
        shown, inner = maker_name(inner), within(inner)
    return f"{shown}({tracing.own_name(function)})" if "<locals>" in function.__code__.co_qualname else shown


def maker_name(wrapper: types.FunctionType) -> str:
    """The API name of what makes such wrappers: the function they are defined in, or a context they hold."""
    module = str(wrapper.__globals__.get("__name__"))
    for each in held(wrapper).values():
        context = type(each.__self__) if isinstance(each, types.MethodType) else None
        if context is not None and top(module_of(context)) == top(module):
            return public_name(context.__module__, context.__qualname__, context)
    maker = wrapper.__code__.co_qualname.partition(".<locals>")[0]
    made_by = loaded(module).get(maker.partition(".")[0])
    shown = f"{module}.{maker}" if made_by is None else public_name(module, maker, made_by)
    return MAKERS.get(shown, shown)


def within(wrapper: types.FunctionType) -> types.FunctionType | None:
    """The function of the same library that a wrapper calls; None where it calls the user's."""
    inside = held(wrapper)
    found = [inside.get(name) for name in ("fun", "func", "fn", "f")]
    library = top(wrapper.__globals__.get("__name__"))
    theirs = [each for each in found if isinstance(each, types.FunctionType)]
    return next((each for each in theirs if top(each.__globals__.get("__name__")) == library), None)


def held(function: types.FunctionType) -> dict[str, Any]:
    """What a function holds of the functions around it, by name."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def module_of(kind: type) -> str | None:
    """The module that a class names, where it names one."""
    module = kind.__dict__.get("__module__") or getattr(kind, "__module__", None)
    return module if isinstance(module, str) else None


def loaded(module: str) -> dict[str, Any]:
    found = sys.modules.get(module)
    return vars(found) if found is not None else {}


def top(module: Any) -> str:
    """The package of a module."""
    return str(module).partition(".")[0]
