"""scikit-learn's estimators: each ``fit``, ``predict``, ``transform`` … is a span; the user's own too."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from joulemeter.errors import UsageError
from joulemeter.span import SpanSink, Tracer

FRAMEWORK = "sklearn"
LEVELS = ("module",)
METHODS = (
    "fit",
    "partial_fit",
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "transform",
    "inverse_transform",
    "fit_transform",
    "fit_predict",
    "score",
    "score_samples",
)


def tracer(level: str) -> Tracer:
    """The tracer of ``level``; raises UsageError for one that is not in LEVELS."""
    if level not in LEVELS:
        raise UsageError(f"sklearn: has no level '{level}'", f"one of {', '.join(LEVELS)}")
    return Estimators()


class Estimators:
    """Writes a span for each call of an estimator's method, named after the estimator's class."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._sites: dict[tuple[type, str], int] = {}

    def start(self, sink: SpanSink) -> None:
        """Wraps the methods of all estimator classes, and of those defined later as they are defined."""
        from sklearn.base import BaseEstimator

        self._sink = sink
        for cls in _family(BaseEstimator):
            self._wrap(cls)
        # Mixins carry methods of their own (TransformerMixin.fit_transform, ClassifierMixin.score).
        for mixin in {base for cls in _family(BaseEstimator) for base in cls.__mro__[1:-1]}:
            self._wrap(mixin)
        self._watch(BaseEstimator)

    def stop(self) -> None:
        """Gives every method back."""
        while self._undo:
            self._undo.pop()()
        self._sites.clear()

    def _watch(self, root: type) -> None:
        """From now on a new subclass is wrapped as soon as it is made."""
        previous = root.__dict__.get("__init_subclass__")
        inherited = root.__init_subclass__.__func__  # type: ignore[attr-defined]

        @functools.wraps(inherited)
        def made(cls: type, **kwargs: Any) -> None:
            """A class made later is metered too."""
            inherited(cls, **kwargs)
            self._wrap(cls)

        root.__init_subclass__ = classmethod(made)  # type: ignore[arg-type, assignment]
        self._undo.append(lambda: _put_back(root, "__init_subclass__", previous))

    def _wrap(self, cls: type) -> None:
        for name in METHODS:
            found: Any = cls.__dict__.get(name)
            if isinstance(found, types.FunctionType) and not hasattr(found, "__joulemeter__"):
                setattr(cls, name, self._timed(found, name))
                self._undo.append(functools.partial(_put_back, cls, name, found))
            elif type(found).__name__ == "_AvailableIfDescriptor" and not hasattr(found.fn, "__joulemeter__"):
                plain = found.fn
                found.fn = self._timed(plain, name)
                self._undo.append(functools.partial(setattr, found, "fn", plain))

    def _timed(self, method: Callable[..., Any], name: str) -> Callable[..., Any]:
        sites, site_of, sink = self._sites, self._site, self._sink

        def enter(cls: type) -> None:
            """Opens the span of this class's method."""
            site = sites.get((cls, name))
            sink.enter(site_of(cls, name) if site is None else site)

        begin, end = OnlyHere(enter), OnlyHere(lambda _: sink.exit())

        @functools.wraps(method)
        def call(estimator: Any, /, *args: Any, **kwargs: Any) -> Any:
            """The method as a span of its own."""
            begin(type(estimator))
            try:
                return method(estimator, *args, **kwargs)
            finally:
                end(None)

        call.__joulemeter__ = True  # type: ignore[attr-defined]
        return call

    def _site(self, cls: type, method: str) -> int:
        # sklearn.linear_model._logistic and __main__ are nobody's names for where a class lives.
        path = [part for part in cls.__module__.split(".") if not part.startswith("_")]
        site = self._sink.site(".".join([*path, cls.__qualname__, method]), "module")
        self._sites[cls, method] = site
        return site


class OnlyHere:
    """A function of one argument that does nothing where it is copied to: a class of the user's is sent to
    joblib's workers with its methods, and these with what they refer to."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function

    def __call__(self, value: Any) -> None:
        """Calls the function."""
        self._function(value)

    def __reduce__(self) -> tuple[Any, ...]:
        """A function of Python's own that hands its argument back."""
        return functools.partial, (typing.cast, None)


def _family(root: type) -> Iterator[type]:
    """``root`` and all classes made from it, each once."""
    seen, waiting = set(), [root]
    while waiting:
        cls = waiting.pop()
        if cls not in seen:
            seen.add(cls)
            yield cls
            waiting += type.__subclasses__(cls)


def _put_back(cls: type, name: str, value: Any) -> None:
    """Sets the class's own attribute, or takes it away where it had none."""
    if value is None:
        delattr(cls, name)
    else:
        setattr(cls, name, value)
