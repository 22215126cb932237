"""Constructs that iterate without a loop, and what Python asks of a callee, in the form of ``constructs``.

A library's iterable is iterated by unpacking, by delegation and by Python's own consumers: each step is a
site's, in the order and as often as without gates, and errors are worded as Python words them.
"""


def steps(name: str, count: int) -> str:
    """The making of an iterator, ``count`` items and the end."""
    return " ".join([name] * (count + 2))


BASE = steps("Base.__iter__", 2)
LOUD = steps("Loud.__iter__", 2)
TRY = "try: {}\nexcept Exception as e: print(type(e).__name__, e)"

ITERABLES: list[tuple[str, str, str]] = [
    ("star in a list", "print([0, *Base(), 9])", f"Base {BASE}"),
    ("star in a tuple", "x = *Base(), 3\nprint(x)", f"Base {BASE}"),
    ("star in a set", "print({*Base()})", f"Base {BASE}"),
    ("star in a call", "print(*Base())", f"Base {BASE}"),
    ("star in a library's call", "print(f(*Base()))", f"Base {BASE} f"),
    ("star in a method's call", "b = Base(1)\nprint(b(*Base(), k=1))", f"Base Base {BASE} Base.__call__"),
    (
        "stars in a call, in order",
        "print(*Base(), f(0), *gen(1), sep=f('-'))",
        f"Base {BASE} f gen {steps('gen', 1)} f",
    ),
    ("a lone star is iterated after the keywords", "print(*Loud(size=2), sep=f('-'))", f"Loud f {LOUD}"),
    ("star by index", "print(*Indexed())", f"Indexed {steps('Indexed.__iter__', 2)}"),
    (
        "star of a user's iterable",
        "class A:\n    def __iter__(self): print('iter'); yield f(1)\nprint([*A()], *A())",
        "f f",
    ),
    (
        "star of a subclass",
        "class A(Base):\n    def __iter__(self): yield f(1)\nprint([*A()])",
        "Base Base.__iter__ Base.__iter__ f Base.__iter__",
    ),
    ("star in a return", "def g(): return *Base(), 1\nprint(g())", f"Base {BASE}"),
    ("star in a yield", "def g(): yield *Base(), 1\nprint(list(g()))", f"Base {BASE}"),
    ("star in a for", "for i in *Base(), 3: print(i)", f"Base {BASE}"),
    ("star in an index", "d = {(1, 2): 'two'}\nprint(d[*Base()])", f"Base {BASE}"),
    ("star among bases", "class A(*[Base]): pass\nprint(A(4))", "Base"),
    ("star in an f-string", "print(f'{[*Base()]} {(*gen(1),)}')", f"Base {BASE} gen {steps('gen', 1)}"),
    ("star in a lambda", "print((lambda *a: a)(*Base()))", f"Base {BASE}"),
    ("star in a default", "def g(x=[*Base()]): return x\nprint(g())", f"Base {BASE}"),
    (
        "star in a decorator",
        "@deco_with(*[1])\ndef g(): return 1\nprint(g())",
        "deco_with deco_with.<locals>.inner",
    ),
    (
        "star in a comprehension",
        "print([(*gen(i),) for i in range(2)])",
        f"gen {steps('gen', 0)} gen {steps('gen', 1)}",
    ),
    (
        "star of an awaited",
        "async def main(): print([*await co(Base())])\nimport asyncio\nasyncio.run(main())",
        f"Base co co {BASE}",
    ),
    ("star of a conditional", "print(*Base() if f(1) else f(2))", f"f Base {BASE}"),
    (
        "star of a sequence of its own kind",
        "print(*Row((1, 2)), [*Row((1, 2))], *Rows([3]))",
        f"Row Row Rows {steps('Rows.__iter__', 1)}",
    ),
    ("star of a set", "print({*Bag({1})}, [*Bag({2})])", "Bag Bag"),
    ("star asks for a length", "print([*Loud(size=2)], (*Loud(size=2),))", f"Loud {LOUD} Loud {LOUD}"),
    ("star whose length fails", TRY.format("print([*Loud()])"), "Loud Loud.__iter__"),
    ("star that fails", TRY.format("print([*Broken()])"), "Broken Broken.__iter__"),
    ("star without an iterator", TRY.format("print(*NoIterator())"), "NoIterator NoIterator.__iter__"),
    (
        "star of what is not iterable",
        "\n".join(
            TRY.format(each) for each in ("f(*3)", "[*f(3)]", "print(*f, 1)", "{*None}", "print(1, *f(3))")
        ),
        "f f",
    ),
    ("star of a dictionary", "print([*{'a': f(1)}], *f({'b': 2}))", "f f"),
    ("star of a string and a range", "print(*'ab', *range(2), *f('cd'))", "f"),
    (
        "double star of what is no mapping",
        "\n".join(
            TRY.format(each)
            for each in (
                "f(**3)",
                "f(**Base())",
                "print(**f([1]))",
                "f(**{1: 2})",
                "Base(**{1: 2})",
                "Base(value=1, **{'value': 2})",
                "Base().get(**3)",
                "Base()(*4)",
            )
        ),
        "Base f *Base",
    ),
    ("unpacking in two", "a, b = Base()\nprint(a, b)", f"Base {BASE}"),
    ("unpacking in a list", "[a, b] = Base()\nprint(a, b)", f"Base {BASE}"),
    ("unpacking with a star", "a, *b = Base()\nprint(a, b)", f"Base {BASE}"),
    ("unpacking a generator", "a, b = gen(2)\nprint(a, b)", f"gen {steps('gen', 2)}"),
    (
        "unpacking into places",
        "class A: pass\nd = {}\nA.x, d[f(1)] = Base()\nprint(A.x, d)",
        f"Base {BASE} f",
    ),
    ("unpacking nested targets", "(a, b), c = f(((1, 2), 3))\nprint(a, b, c)", "f"),
    ("unpacking twice", "a, b = c, d = Base()\nprint(a, b, c, d)", f"Base {BASE} {BASE}"),
    ("unpacking and keeping", "x = a, b = Base(7)\nprint(x, a, b)\ny = c, d = f((1, 2))\nprint(y)", "Base f"),
    ("unpacking too many", TRY.format("a, b = gen(3)"), "gen gen gen gen gen"),
    ("unpacking too few", TRY.format("a, b, c = Base()"), f"Base {BASE}"),
    ("unpacking too few for a star", TRY.format("a, b, c, *d = Base()"), f"Base {BASE}"),
    ("unpacking what is not iterable", TRY.format("a, b = f(3)") + "\n" + TRY.format("a, b = None"), "f"),
    ("unpacking that fails in a traceback", "def g():\n    a, b = (\n  f(3))\ng()", "f"),
    (
        "unpacking by a yield",
        "def g():\n    a, b = yield\n    print(a, b)\nit = g(); next(it)\ntry: it.send(Base())\nexcept StopIteration: print('end')",
        f"Base {BASE}",
    ),
    (
        "unpacking an awaited",
        "async def main():\n    a, b = await co(Base())\n    print(a, b)\nimport asyncio\nasyncio.run(main())",
        f"Base co co {BASE}",
    ),
    ("unpacking in a class", "class A:\n    a, b = Base()\nprint(A.a, A.b)", f"Base {BASE}"),
    (
        "unpacking a subclass of tuple",
        "a, b = Row((1, 2))\nprint(a, b)\nfor x in Row((3,)): print(x)",
        "Row Row",
    ),
    ("swapping", "a, b = 1, 2\na, b = b, a\nprint(a, b)", ""),
    (
        "yield from a library iterable",
        "def g(): print((yield from Base()))\nprint(list(g()))",
        f"Base {BASE}",
    ),
    (
        "yield from by index",
        "def g(): yield from Indexed()\nprint(list(g()))",
        f"Indexed {steps('Indexed.__iter__', 2)}",
    ),
    (
        "yield from an iterator that is driven",
        "def g():\n    print((yield from Driven()))\nit = g()\nprint(next(it), it.send(5), it.throw(KeyError('k')))\nit.close()",
        "Driven Loud.__iter__ Loud.__iter__",
    ),
    (
        "yield from an iterator that cannot be sent to",
        "def g(): yield from Base()\nit = g(); next(it)\n" + TRY.format("it.send(1)"),
        "Base Base.__iter__ Base.__iter__",
    ),
    (
        "yield from an iterator that cannot be thrown into",
        "def g():\n    try: yield from Base()\n    except KeyError as e: yield repr(e)\nit = g(); next(it)\nprint(it.throw(KeyError('k')))\nit.close()",
        "Base Base.__iter__ Base.__iter__",
    ),
    ("yield from what is not iterable", "def g(): yield from f(3)\n" + TRY.format("list(g())"), "f"),
    ("list asks for a length", "print(list(Loud(size=2)), tuple(Loud(size=2)))", f"Loud {LOUD} Loud {LOUD}"),
    ("list whose length fails", TRY.format("list(Loud())"), "Loud Loud.__iter__"),
    (
        "zip makes its iterators in order",
        "class A:\n    def __iter__(self): print('mine'); return iter([1])\nprint(list(zip(A(), Loud(1))))",
        "Loud " + steps("Loud.__iter__", 0),
    ),
    ("zip of what is not iterable", TRY.format("zip(f(1), Loud())"), "f Loud"),
    ("set of a set", "print(set(Bag({1})), frozenset(Bag({2})), sorted(Bag({3})))", "Bag Bag Bag"),
    (
        "islice and chain",
        "import itertools as i\nprint(list(i.islice(gen(9), 2)), list(i.chain(gen(1), [5], Base())))",
        f"gen gen gen gen gen Base {steps('gen', 1)} {BASE}",
    ),
    (
        "cycle and tee",
        "import itertools as i\na, b = i.tee(gen(1))\nprint(list(a), list(b))\nfor x, _ in zip(i.cycle(gen(1)), 'abc'): print(x)",
        " ".join(["gen"] * 9),
    ),
    (
        "takewhile, starmap, groupby",
        "import itertools as i\nprint(list(i.takewhile(bool, Base())), list(i.starmap(print, zip(Base()))), [k for k, _ in i.groupby(gen(1))])",
        f"Base {BASE} Base {BASE} gen {steps('gen', 1)}",
    ),
    (
        "accumulate with an initial value",
        "import itertools as i\nprint(list(i.accumulate(gen(2), initial=f(5))))",
        f"gen f {steps('gen', 2)}",
    ),
    (
        "reduce, deque and fsum",
        "import functools, collections, math\nprint(functools.reduce(max, gen(2)), collections.deque(gen(1)), math.fsum(gen(2)))",
        f"gen {steps('gen', 2)} gen {steps('gen', 1)} gen {steps('gen', 2)}",
    ),
    (
        "extend, update and join",
        "x = []; x.extend(gen(2)); s = set(); s.update(gen(1), [5])\nprint(x, s, '-'.join(str(i) for i in gen(2)), '-'.join(f(['a'])))",
        f"gen {steps('gen', 2)} gen {steps('gen', 1)} gen {steps('gen', 2)} f",
    ),
    ("a library's list extends itself", "x = Rows([1]); x.extend(x); x += x\nprint(len(x))", "Rows"),
    (
        "keywords that a consumer refuses",
        "\n".join(
            TRY.format(each)
            for each in (
                "list(**{1: 2})",
                "enumerate(Base(), beginning=1)",
                "filter(**{'a': Base()})",
                "sum(Base(), start=f(1), end=2)",
                "zip(Base(), loose=1)",
            )
        ),
        "Base Base Base f Base",
    ),
    (
        "a copy of an iteration",
        "import copy, pickle\ne = enumerate(f(Base()))\nprint(next(e), next(copy.copy(e)))\nprint(list(pickle.loads(pickle.dumps(e))))",
        "Base f Base.__iter__ Base.__iter__ Base.__iter__",
    ),
    (
        "arguments named as the callee has them",
        "\n".join(
            TRY.format(each)
            for each in (
                "Base(1, 2)",
                "Base().get(1)",
                "boom(k=1)",
                "Base.build(1, 2)",
                "gen()",
                "Base(wrong=1)",
            )
        ),
        "Base Base Base.get boom Base.build gen Base",
    ),
]
