"""A table of language constructs: a source, and the calls of the library ``shop`` that it makes, in order.

``shop`` is a library as the gates see one: functions, classes, generators, coroutines, managers. The
source prints what it sees; with and without gates it must print the same.
"""

LIBRARY = """
import contextlib, functools, sys, warnings
class Base:
    def __init__(self, value=0): self.value = value
    def get(self): return self.value
    def hook(self): return "library hook"
    def run(self): return self.hook()
    def chain(self): return self
    @classmethod
    def build(cls, value=0): return cls(value)
    @staticmethod
    def free(value): return value
    @property
    def prop(self): return self.value
    def __call__(self, *a, **k): return (a, sorted(k.items()))
    def __matmul__(self, other): return "matmul"
    def __rmatmul__(self, other): return "rmatmul"
    def __imatmul__(self, other): self.value += 1; return self
    def __iter__(self): return iter([1, 2])
    def __enter__(self): return self
    def __exit__(self, *e): return self.value == "swallow"
    async def __aenter__(self): return self
    async def __aexit__(self, *e): return False
    def __aiter__(self): return Ticks()
    def __await__(self):
        yield
        return self.value
    def __repr__(self): return f"<{type(self).__name__} {self.value}>"
    def __eq__(self, other): return isinstance(other, Base) and self.value == other.value
    __hash__ = None
class Indexed:
    def __getitem__(self, i):
        if i > 1: raise IndexError
        return i
class Ticks:
    def __init__(self): self.n = 0
    def __aiter__(self): return self
    async def __anext__(self):
        self.n += 1
        if self.n > 2: raise StopAsyncIteration
        return self.n
def f(*a, **k): return a[0] if a else None
def boom(*a): raise ValueError("boom")
def apply(function, *a): return function(*a)
def deco(function): return function
def deco_with(x):
    def inner(function): return function
    return inner
def wrapping(function):
    @functools.wraps(function)
    def inner(*a, **k): return function(*a, **k)
    return inner
def gen(n):
    for i in range(n): yield i
def echo():
    got = yield 0
    while got is not None: got = yield got * 2
    return "done"
async def co(x): return x
async def agen(n):
    for i in range(n): yield i
@contextlib.contextmanager
def manager(x): yield x
def caller(): return sys._getframe(1).f_code.co_name
def warn(): warnings.warn("careful", stacklevel=2)
class Loud:
    def __init__(self, n=2, size=None): self.n, self.size = n, size
    def __iter__(self): print("iter"); return self
    def __len__(self):
        print("len")
        if self.size is None: raise NotImplementedError
        return self.size
    def __next__(self):
        print("next")
        if not self.n: raise StopIteration
        self.n -= 1
        return self.n
class Driven(Loud):
    def send(self, x): print("send", x); return x
    def throw(self, *e): print("throw"); return "thrown"
    def close(self): print("close")
class Broken:
    def __iter__(self): raise ValueError("no iterator")
class NoIterator:
    def __iter__(self): return 5
class Bag(set):
    def __iter__(self): print("bag"); return super().__iter__()
class Row(tuple):
    def __getitem__(self, i): return "item"
class Rows(list):
    def __iter__(self): print("rows"); return super().__iter__()
class Meta(type):
    def __call__(cls, *a): return super().__call__(*a)
"""

RUN = "import asyncio\nasyncio.run(main())\n"
G = "from shop import *\nimport shop\n"

CASES: list[tuple[str, str, str]] = [
    # name, source (after G), the calls of shop in order; "*" before a name: any number of times, also none
    ("expression statement", "f(1)", "f"),
    ("nested arguments", "print(f(f(f(1))))", "f f f"),
    ("two calls in order", "print(f(1) + f(2))", "f f"),
    ("module attribute", "print(shop.f(1))", "f"),
    ("alias of a module", "import shop as s\nprint(s.f(1))", "f"),
    ("alias of a function", "from shop import f as g\nprint(g(1))", "f"),
    ("assigned to a name", "g = f\nprint(g(1))", "f"),
    ("kept in a list", "print([f, len][0](1))", "f"),
    ("kept in a dictionary", "print({'k': f}['k'](1))", "f"),
    ("kept in an attribute", "class A: pass\na = A()\na.g = f\nprint(a.g(1))", "f"),
    ("kept in a class", "class A:\n    g = staticmethod(f)\nprint(A.g(1), A().g(2))", "f f"),
    ("function as a method", "class A:\n    g = f\nprint(type(A().g()).__name__)", "f"),
    ("returned", "def g(): return f(1)\nprint(g())", "f"),
    ("result that is called", "def g(): return f\nprint(g()(1))", "f"),
    ("conditional callee", "print((f if 1 else len)(1))", "f"),
    ("boolean callee", "print((None or f)(1))", "f"),
    ("lambda", "print((lambda x: f(x))(1))", "f"),
    ("lambda default", "g = lambda x=f(1): x\nprint(g())", "f"),
    ("walrus", "if (y := f(1)): print(y)", "f"),
    ("walrus callee", "print((g := f)(1))", "f"),
    ("assignment", "x = f(1)\nprint(x)", "f"),
    ("annotated assignment", "x: int = f(1)\nprint(x)", "f"),
    ("chained assignment", "x = y = f(1)\nprint(x, y)", "f"),
    ("unpacking", "a, *b = f((1, 2, 3))\nprint(a, b)", "f"),
    ("augmented assignment", "x = 1\nx += f(2)\nprint(x)", "f"),
    ("augmented target", "d = [1, 2]\nd[f(1)] += f(5)\nprint(d)", "f f"),
    ("subscript", "print([1, 2, 3][f(1)])", "f"),
    ("slice", "print([1, 2, 3][f(1):f(3)])", "f f"),
    ("subscript target", "d = {}\nd[f('k')] = f(2)\nprint(d)", "f f"),
    ("attribute target", "b = Base(1)\nb.chain().value = f(3)\nprint(b)", "Base f Base.chain"),
    ("delete target", "d = {1: 2}\ndel d[f(1)]\nprint(d)", "f"),
    ("return of a tuple", "def g(): return f(1), f(2)\nprint(g())", "f f"),
    ("if condition", "if f(1): print('yes')", "f"),
    ("elif condition", "if f(0): pass\nelif f(1): print('yes')", "f f"),
    ("while condition", "n = 2\nwhile f(n): n -= 1\nprint(n)", "f f f"),
    ("while else", "while f(0): pass\nelse: print(f('else'))", "f f"),
    ("conditional expression", "print(f(1) if f(0) else f(2))", "f f"),
    ("short circuit and", "print(f(0) and f(1))", "f"),
    ("short circuit or", "print(f(0) or f(1))", "f f"),
    ("comparison chain", "print(f(1) < f(2) < f(0) < f(9))", "f f f"),
    ("not", "print(not f(0))", "f"),
    ("unary and binary", "print(-f(1) ** f(2))", "f f"),
    ("assert passes", "assert f(1), f('message')", "f"),
    ("assert fails", "assert f(0), f('message')", "f f"),
    ("raise", "raise f(ValueError('x'))", "f"),
    ("raise from", "raise ValueError('a') from f(KeyError('b'))", "f"),
    ("raise of a class built by the library", "raise shop.f(ValueError)(f('m'))", "f f"),
    ("library raises", "boom(1)", "boom"),
    ("library raises deep", "def g(): return [boom(1)]\ng()", "boom"),
    ("caught", "try: boom(1)\nexcept ValueError as e: print(e)", "boom"),
    ("caught and raised again", "try: boom(1)\nexcept ValueError: raise", "boom"),
    ("except expression", "try: 1/0\nexcept f(ZeroDivisionError): print('z')", "f"),
    (
        "except group",
        "try: raise ExceptionGroup('g', [ValueError()])\nexcept* f(ValueError): print('star')",
        "f",
    ),
    ("finally", "try: f(1)\nfinally: print(f(2))", "f f"),
    ("try else", "try: pass\nexcept E: pass\nelse: print(f(1))", "f"),
    ("context of an error", "try: boom(1)\nexcept ValueError: 1/0", "boom"),
    ("for iterable", "for i in f([1, 2]): print(i)", "f"),
    (
        "for library object",
        "for i in Base(): print(i)",
        "Base Base.__iter__ Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    (
        "for by index",
        "for i in Indexed(): print(i)",
        "Indexed Indexed.__iter__ Indexed.__iter__ Indexed.__iter__ Indexed.__iter__",
    ),
    ("for generator", "for i in gen(2): print(i)", "gen gen gen gen gen"),
    ("for with break", "for i in Base():\n    break\nelse: print('no')", "Base Base.__iter__ Base.__iter__"),
    ("for else", "for i in []: pass\nelse: print(f(1))", "f"),
    (
        "enumerate of a library object",
        "for i, x in enumerate(Base()): print(i, x)",
        "Base Base.__iter__ Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    (
        "zip of library objects",
        "print([p for p in zip(Base(), range(1))])",
        "Base Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    ("zip strict", "print(list(zip([1], [2], strict=True)))", ""),
    (
        "map over a library object",
        "print(list(map(str, Base())))",
        "Base Base.__iter__ Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    ("map of a library function", "print(list(map(f, [1, 2])))", ""),
    (
        "filter",
        "print(list(filter(None, Base())))",
        "Base Base.__iter__ Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    (
        "list of a library object",
        "print(list(Base()))",
        "Base Base.__iter__ Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    (
        "sum, min and max",
        "print(sum([1]), min([2, 1]), max(1, 2), max(Base()))",
        "Base Base.__iter__ Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    ("sorted with a key", "print(sorted([2, 1], key=f))", ""),
    ("iter and next", "g = iter(gen(1))\nprint(next(g), next(g, 'end'))", "gen gen gen gen"),
    ("iter with a sentinel", "it = iter(lambda: f(1), 1)\nprint(list(it))", "f"),
    ("next that stops", "next(gen(0))", "gen gen"),
    ("list comprehension", "print([f(i) for i in range(3) if f(i)])", "f f f f f"),
    ("set comprehension", "print({f(i) for i in range(1)})", "f"),
    ("dict comprehension", "print({f(i): f(i) for i in range(1)})", "f f"),
    ("generator expression", "print(sum(f(i) for i in range(2)))", "f f"),
    ("nested comprehension", "print([[f(j) for j in range(i)] for i in range(3)])", "f f f"),
    (
        "comprehension over a library object",
        "print([i for i in Base()])",
        "Base Base.__iter__ Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    ("comprehension in a class", "class A:\n    xs = [f(i) for i in range(2)]\nprint(A.xs)", "f f"),
    ("starred argument", "print(f(*f([1, 2])))", "f f"),
    (
        "starred library object",
        "print(*[*Base()])",
        "Base Base.__iter__ Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    ("keyword arguments", "print(f(f(1), k=f(2)))", "f f f"),
    ("double starred", "print(f(1, **f({'a': 2})))", "f f"),
    ("many arguments", "print(f(" + ", ".join(f"f({i})" for i in range(40)) + "))", " ".join(["f"] * 41)),
    ("f-string", "print(f'{f(1)} {f(2)!r:>5} {f(3):{f(4)}}')", "f f f f"),
    ("f-string with =", "print(f'{f(1)=}')", "f"),
    ("f-string with an object", "print(f'{Base(1)}')", "Base"),
    ("percent format", "print('%s' % f(1))", "f"),
    ("str.format", "print('{}'.format(f(1)))", "f"),
    ("list display", "print([f(1), *f([2])], (f(1),), {f(1)}, {f(1): f(2), **f({})})", "f f f f f f f"),
    ("constructor", "print(Base(1))", "Base"),
    ("method", "print(Base(1).get())", "Base Base.get"),
    ("bound method kept", "m = Base(1).get\nprint(m())", "Base Base.get"),
    ("unbound method", "print(Base.get(Base(2)))", "Base Base.get"),
    ("class method", "print(Base.build(3))", "Base.build"),
    ("static method", "print(Base.free(3), Base(0).free(4))", "Base.free Base Base.free"),
    ("property", "print(Base(3).prop)", "Base"),
    ("callable instance", "print(Base(1)(2, k=3))", "Base Base.__call__"),
    ("chain", "print(Base(1).chain().chain().get())", "Base Base.chain Base.chain Base.get"),
    ("chain over lines", "print(\n  Base(1)\n  .chain()\n  .get())", "Base Base.chain Base.get"),
    ("error in a chain over lines", "x = (Base(1)\n  .chain()\n  .nothing(\n  2))", "Base Base.chain"),
    ("error in arguments over lines", "print(f(1),\n  f(2),\n  [][3],\n  f(4))", "f f"),
    ("error called over lines", "class A:\n  def g(self, *a): 1/0\nx = (A()\n  .g(1,\n  2))", ""),
    ("subclass constructor", "class A(Base): pass\nprint(A(1))", "Base"),
    ("subclass method", "class A(Base): pass\nprint(A(1).get())", "Base Base.get"),
    (
        "overridden method",
        "class A(Base):\n    def hook(self): return 'mine'\nprint(A().hook())",
        "Base Base.hook",
    ),
    (
        "override called by the library",
        "class A(Base):\n    def hook(self): return f('mine')\nprint(A().run())",
        "Base Base.run f",
    ),
    (
        "new method of a subclass",
        "class A(Base):\n    def fresh(self): return 'mine'\nprint(A().fresh())",
        "Base",
    ),
    (
        "super().method()",
        "class A(Base):\n    def hook(self): return super().hook() + '!'\nprint(A().hook())",
        "Base Base.hook Base.hook",
    ),
    (
        "super().__init__()",
        "class A(Base):\n    def __init__(self): super().__init__(7)\nprint(A())",
        "Base Base.__init__",
    ),
    (
        "super with arguments",
        "class A(Base):\n    def hook(self): return super(A, self).hook()\nprint(A().hook())",
        "Base Base.hook Base.hook",
    ),
    (
        "super in a nested function",
        "class A(Base):\n    def hook(self):\n        def g(s): return super(A, s).hook()\n        return g(self)\nprint(A().hook())",
        "Base Base.hook Base.hook",
    ),
    ("__class__ cell", "class A:\n    def g(self): return __class__.__name__\nprint(A().g())", ""),
    (
        "subclass of a subclass",
        "class A(Base): pass\nclass B(A):\n    def get(self): return 5\nprint(B().get())",
        "Base Base.get",
    ),
    (
        "multiple bases",
        "class M: \n    def mix(self): return 1\nclass A(M, Base): pass\nprint(A().mix(), A().get())",
        "Base Base Base.get",
    ),
    ("library base given by a call", "class A(f(Base)): pass\nprint(A(1))", "f Base"),
    ("metaclass", "class A(metaclass=Meta): pass\nprint(type(A()).__name__)", "*Meta.__call__"),
    ("metaclass by a call", "class A(metaclass=f(type)): pass\nprint(A.__name__)", "f"),
    (
        "dataclass",
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int = f(1)\nprint(P(), P(2))",
        "f",
    ),
    (
        "named tuple",
        "import collections\nP = collections.namedtuple('P', 'x')\nprint(P(1), P.__module__)",
        "",
    ),
    ("typed named tuple", "import typing\nclass P(typing.NamedTuple):\n    x: int = f(1)\nprint(P())", "f"),
    (
        "enum",
        "import enum\nclass E(enum.Enum):\n    A = f(1)\n    B = enum.auto()\nprint(list(E), E(1))",
        "f",
    ),
    ("type variable", "import typing\nT = typing.TypeVar('T')\nprint(T.__module__)", ""),
    ("decorator", "@deco\ndef g(): return 1\nprint(g())", "deco"),
    (
        "decorator with arguments",
        "@deco_with(f(1))\ndef g(): return 1\nprint(g())",
        "f deco_with deco_with.<locals>.inner",
    ),
    (
        "stacked decorators",
        "@deco\n@deco_with(1)\ndef g(): return 1\nprint(g())",
        "deco_with deco_with.<locals>.inner deco",
    ),
    ("class decorator", "@deco\nclass A: pass\nprint(A.__name__)", "deco"),
    (
        "wrapping decorator",
        "@wrapping\ndef g(): return 1\nprint(g(), g.__name__)",
        "wrapping wrapping(g)",
    ),
    (
        "property, setter, class and static methods",
        "class A:\n    @property\n    def p(self): return self._p\n    @p.setter\n    def p(self, v): self._p = f(v)\n    @classmethod\n    def c(cls): return cls.__name__\n    @staticmethod\n    def s(): return f(1)\na = A(); a.p = 2\nprint(a.p, A.c(), A.s())",
        "f f",
    ),
    (
        "cached property",
        "import functools\nclass A:\n    @functools.cached_property\n    def p(self): return f(1)\na = A()\nprint(a.p, a.p)",
        "f",
    ),
    ("default argument", "def g(x=f(1)): return x\nprint(g(), g())", "f"),
    ("keyword-only default", "def g(*, x=f(1)): return x\nprint(g())", "f"),
    ("annotation", "def g(x: f(1) = 2) -> f(3): pass\nprint(g.__annotations__)", "f f"),
    ("annotation of a name", "x: f(int) = 1\nprint(__annotations__)", "f"),
    (
        "annotations as text",
        "from __future__ import annotations\nx: f(int) = 1\ndef g(a: f(1)) -> f(2): pass\nprint(__annotations__, g.__annotations__)",
        "",
    ),
    (
        "generator",
        "def g():\n    yield f(1)\n    x = yield f(2)\n    print(x)\nit = g()\nprint(next(it), it.send(None))",
        "f f",
    ),
    (
        "yield from a library generator",
        "def g(): return (yield from gen(2))\nprint(list(g()))",
        "gen gen gen gen",
    ),
    (
        "yield from with send",
        "def g():\n    r = yield from echo()\n    print(r)\nit = g(); next(it)\nprint(it.send(4))\ntry: it.send(None)\nexcept StopIteration: print('stop')",
        "echo echo echo echo",
    ),
    (
        "yield from with throw",
        "def g():\n    try: yield from gen(3)\n    except KeyError as e: print('caught', e)\n    yield 9\nit = g(); next(it)\nprint(it.throw(KeyError('k')))",
        "gen gen gen",
    ),
    (
        "yield from closed",
        "def g():\n    yield from gen(3)\nit = g(); next(it); it.close()\nprint('closed')",
        "gen gen gen",
    ),
    ("yield from a list", "def g(): yield from [f(1), f(2)]\nprint(list(g()))", "f f"),
    (
        "generator left open",
        "def g():\n    with Base(1): yield f(1)\nit = g(); next(it)\nf(2)\ndel it\nprint('gone')",
        "Base Base.__enter__ f f Base.__enter__",
    ),
    ("with", "with Base(1) as b: print(b)", "Base Base.__enter__"),
    ("with around calls", "with Base(1) as b:\n    f(1)\nf(2)", "Base Base.__enter__ f f"),
    (
        "with several",
        "with Base(1) as a, Base(2) as b: print(a, b)",
        "Base Base.__enter__ Base Base.__enter__",
    ),
    (
        "with parentheses",
        "with (Base(1) as a,\n      Base(2) as b): print(a, b)",
        "Base Base.__enter__ Base Base.__enter__",
    ),
    ("with library generator", "with manager(3) as x: print(x)", "manager manager"),
    ("with that swallows", "with Base('swallow'): 1/0\nprint('on')", "Base Base.__enter__"),
    ("with that raises", "with Base(1): 1/0", "Base Base.__enter__"),
    (
        "with left by return",
        "def g():\n    with Base(1): return f(1)\nprint(g(), f(2))",
        "Base Base.__enter__ f f",
    ),
    (
        "with left by continue",
        "for i in range(2):\n    with Base(i): continue",
        "Base Base.__enter__ Base Base.__enter__",
    ),
    ("with no manager", "with 3: pass", ""),
    (
        "with an exit stack",
        "import contextlib\nwith contextlib.ExitStack() as s: print(s.enter_context(Base(1)))",
        "Base",
    ),
    ("async function", "async def main(): print(f(1))\n" + RUN, "f"),
    ("await", "async def main(): print(await co(1))\n" + RUN, "co co"),
    (
        "await an object",
        "async def main(): print(await Base(4))\n" + RUN,
        "Base Base.__await__ Base.__await__",
    ),
    (
        "await own coroutine",
        "async def own(): return f(1)\nasync def main(): print(await own())\n" + RUN,
        "f",
    ),
    ("gather", "async def main(): print(await asyncio.gather(co(1), co(2)))\n" + RUN, "co co"),
    ("async for", "async def main():\n    async for i in agen(2): print(i)\n" + RUN, "agen agen *agen"),
    (
        "async for over an object",
        "async def main():\n    async for i in Base(): print(i)\n" + RUN,
        "Base Base.__aiter__ *Base.__aiter__",
    ),
    (
        "async comprehension",
        "async def main(): print([f(i) async for i in agen(2)])\n" + RUN,
        "agen agen *agen f *agen f *agen",
    ),
    (
        "async with",
        "async def main():\n    async with Base(1) as b: print(b, f(1))\n" + RUN,
        "Base Base.__enter__ Base.__enter__ f Base.__enter__ Base.__enter__",
    ),
    (
        "async generator",
        "async def g():\n    yield f(1)\nasync def main():\n    async for i in g(): print(i)\n" + RUN,
        "f",
    ),
    ("await in arguments", "async def main(): print(f(await co(1)))\n" + RUN, "co co f"),
    (
        "executor",
        "async def main(): print(await asyncio.get_running_loop().run_in_executor(None, f, 5))\n" + RUN,
        "",
    ),
    ("async error", "async def main(): await co(boom(1))\n" + RUN, "boom"),
    ("matrix product", "print(Base() @ Base())", "Base Base Base.__matmul__"),
    ("matrix product from the right", "print(3 @ Base())", "Base Base.__matmul__"),
    ("matrix product without", "print(3 @ 4)", ""),
    ("matrix product in place", "b = Base(1)\nb @= 2\nprint(b)", "Base Base.__matmul__"),
    (
        "matrix product in place of an attribute",
        "class A: pass\na = A(); a.b = Base(1)\na.b @= 2\nprint(a.b)",
        "Base",
    ),
    ("product of products", "print((Base() @ 1) , 2 @ Base() @ 3 if 0 else 4)", "Base Base.__matmul__"),
    ("match subject", "match f(3):\n    case 3: print('three')", "f"),
    ("match guard", "match 3:\n    case x if f(x): print(x)", "f"),
    ("match class pattern", "match Base(3):\n    case Base(value=3): print('three')", "Base"),
    ("match body", "match [1, {'k': 2}]:\n    case [a, {'k': b, **rest}]: print(f(a), f(b), rest)", "f f"),
    ("match or and as", "match 3:\n    case (1 | 3) as x: print(f(x))", "f"),
    (
        "match singletons",
        "for v in (True, None, 1):\n    match v:\n        case True | None: print(f(v))\n        case _: print('other')",
        "f f",
    ),
    (
        "match sequences and values",
        "import math\nmatch (3.5, 'a'):\n    case [math.pi, _]: pass\n    case [-3.5 | 3.5, str() as s, *_] if f(s): print(s)",
        "f",
    ),
    ("global", "def g():\n    global x\n    x = f(1)\ng(); print(x)", "f"),
    (
        "nonlocal",
        "def g():\n    x = 0\n    def h():\n        nonlocal x\n        x = f(1)\n    h(); return x\nprint(g())",
        "f",
    ),
    ("closure", "def g(n):\n    return lambda: f(n)\nprint(g(2)())", "f"),
    ("locals()", "def g():\n    a = f(1)\n    return locals()\nprint(g())", "f"),
    ("locals() under another name", "def g(l=locals):\n    a = 1\n    return sorted(l())\nprint(g())", ""),
    (
        "globals(), vars() and dir()",
        "x = 1\nprint('x' in globals(), 'x' in vars(), 'x' in dir(), [k for k in globals() if 'joule' in k])",
        "",
    ),
    ("eval", "x = 2\ndef g():\n    y = 3\n    return eval('x + y')\nprint(g())", ""),
    ("eval that calls", "print(eval('f(1)'))", ""),
    (
        "exec",
        "def g():\n    d = {}\n    exec('y = 3', d)\n    return d['y']\nprint(g())\nexec('z = 4'); print(z)",
        "",
    ),
    ("compile", "print(eval(compile('1 + 1', 'x', 'eval')))", ""),
    ("frame of the caller", "def g(): return caller()\nprint(g())", "caller"),
    ("stack", "import inspect\ndef g(): return [x.function for x in inspect.stack()][:2]\nprint(g())", ""),
    (
        "own frame",
        "import sys\ndef g(): return sys._getframe().f_code.co_name, sys._getframe(1).f_code.co_name\nprint(g())",
        "",
    ),
    (
        "warning",
        "import warnings\nwith warnings.catch_warnings(record=True) as w:\n    warnings.simplefilter('always')\n    warn()\nprint(w[0].lineno, w[0].filename)",
        "warn",
    ),
    ("recursion", "def g(n): return 1 if n == 0 else f(g(n - 1))\nprint(g(3))", "f f f"),
    (
        "recursion through the library",
        "def g(n): return 0 if n == 0 else 1 + apply(g, n - 1)\nprint(g(3))",
        "apply apply apply",
    ),
    ("too deep recursion", "def g(n): return g(n + 1)\ntry: g(0)\nexcept RecursionError: print('deep')", ""),
    ("partial", "import functools\nprint(functools.partial(f, 1)())", "f"),
    ("partial kept", "import functools\ng = functools.partial(functools.partial(f, 1), 2)\nprint(g())", "f"),
    (
        "lru cache of own function",
        "import functools\n@functools.lru_cache\ndef g(x): return f(x)\nprint(g(1), g(1))",
        "f",
    ),
    (
        "lru cache of a library function",
        "import functools\ng = functools.lru_cache(f)\nprint(g(1), g(1))",
        "f f",
    ),
    ("operator.methodcaller", "import operator\nprint(operator.methodcaller('get')(Base(1)))", "Base"),
    ("getattr", "print(getattr(Base(1), 'get')())", "Base Base.get"),
    ("imported inside a function", "def g():\n    from shop import f as h\n    return h(1)\nprint(g())", "f"),
    ("__import__", "print(__import__('shop').f(1))", "f"),
    (
        "TYPE_CHECKING",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING: from nowhere import x\nprint(f(1))",
        "f",
    ),
    ("conditional import", "try: import nothing_here\nexcept ImportError: print(f(1))", "f"),
    (
        "docstrings",
        "def g():\n    'doc'\n    return f(1)\nclass A:\n    'class doc'\nprint(g.__doc__, A.__doc__, g())",
        "f",
    ),
    ("no docstring", "def g(): f(1)\nprint(g.__doc__, (lambda: f(1)).__doc__)", ""),
    ("not callable", "x = 3\nx(f(1))", "f"),
    ("None called", "print(None)\nf(None)(1)", "f"),
    ("wrong arguments", "def g(a): pass\ng(1, f(2))", "f"),
    ("missing arguments of the library", "apply()", "apply"),
    ("name error in the callee", "print(1)\nnothing(f(1))", ""),
    ("attribute error in the callee", "Base(1).nothing(f(1))", "Base"),
    ("order of callee and arguments", "def say(x): print(x); return f\nsay('callee')(say('argument'))", "f"),
    (
        "arguments are evaluated once",
        "n = 0\ndef tick():\n    global n\n    n += 1\n    return n\nf(tick(), tick())\nprint(n)",
        "f",
    ),
    (
        "thread",
        "import threading\nt = threading.Thread(target=lambda: print(f(1)))\nt.start(); t.join()",
        "f",
    ),
    (
        "pool of threads",
        "import concurrent.futures as c\nwith c.ThreadPoolExecutor(1) as p: print(p.submit(lambda: f(1)).result())",
        "f",
    ),
    ("slots", "class A:\n    __slots__ = ('v',)\n    def __init__(self): self.v = f(1)\nprint(A().v)", "f"),
    ("__getattr__", "class A:\n    def __getattr__(self, k): return f\nprint(A().anything(1))", "f"),
    ("__call__ of own class", "class A:\n    def __call__(self): return f(1)\nprint(A()())", "f"),
    (
        "__new__",
        "class A:\n    def __new__(cls): return f(object.__new__(cls))\nprint(type(A()).__name__)",
        "f",
    ),
    (
        "__init_subclass__",
        "class A:\n    def __init_subclass__(cls): print(f(cls.__name__))\nclass B(A): pass",
        "f",
    ),
    (
        "__set_name__ and descriptors",
        "class D:\n    def __set_name__(self, o, n): self.n = f(n)\n    def __get__(self, i, o): return self.n\nclass A: x = D()\nprint(A().x)",
        "f",
    ),
    ("__del__", "class A:\n    def __del__(self): print(f('del'))\nA()", "f"),
    ("string methods", "print('a,b'.split(','), 'x'.join(['1', '2']))", ""),
    ("semicolons", "f(1); f(2); print(3)", "f f"),
    ("line continuation", "x = f(1) + \\\n  f(2)\nprint(x)", "f f"),
    ("pass and ellipsis", "def g(): ...\nprint(g())", ""),
    ("unicode", "größe = f('ä')\nprint(größe, f('€'))", "f f"),
    (
        "global statement at the end",
        "def g():\n    x = 1\n    del x\n    print('x' in locals(), f(1))\ng()",
        "f",
    ),
    ("a class body that calls", "class A:\n    f(1)\n    def g(self): pass\n    y = f(2)\nprint(A.y)", "f f"),
    (
        "nested functions and classes",
        "def a():\n    class B:\n        def c(self): return f(1)\n    return B().c()\nprint(a())",
        "f",
    ),
    ("type of a call", "print(type(f(1)).__name__, isinstance(f(1), int), callable(f))", "f f"),
    ("pickle of own function", "import pickle\nprint(pickle.loads(pickle.dumps(len)) is len)", ""),
    ("copy of an object", "import copy\nprint(copy.deepcopy(Base(1)))", "Base"),
    ("print to a file", "import sys\nprint(f(1), file=sys.stdout)", "f"),
    ("literal that is called", "try: (1)(2)\nexcept TypeError as e: print(e)", ""),
    ("exit in the library", "apply(exit, 3)", "apply"),
]
