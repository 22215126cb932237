"""Random small programs: statements and expressions of every kind, over the library ``shop``.

They print what they do (``say`` prints each evaluation of its argument), end, and mostly do not fail; where
they fail, the traceback is part of what they do. ``program`` takes anything that chooses like
``random.Random``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

HEAD = """from shop import *
import shop, asyncio, functools, contextlib
x, y, xs = 1, 2, [3, 4]
def say(v=0, *a, **k):
    print("say", v, *a, *sorted(k.items()))
    return v
class Own:
    def __init__(self, v): self.v = say(v)
    def __repr__(self): return "Own"
    def get(self, d=0): return self.v + d
    def __enter__(self): print("in"); return self
    def __exit__(self, *e): print("out", e[0]); return self.v > 3
    def __iter__(self): yield from (self.v, 1)
    def __matmul__(self, o): return self.v
    def __getitem__(self, i): return say(i)
class Sub(Base):
    def __init__(self, v=0): super().__init__(say(v))
    def get(self): return super().get() + 1
    def hook(self): return f(self.value)
"""


class Writer:
    """Writes programs; ``random`` chooses."""

    def __init__(self, random: Any) -> None:
        self.random = random
        self.made = 0
        self.names = ["x", "y"]
        self.inside = ""
        """What the code stands in: "" (module), "def", "gen", "async" or "class"."""
        self.loops = self.level = 0
        self.bare = False
        """Whether walrus, await and yield may not stand here."""
        self.shown = False
        """Whether this is inside an f-string: before Python 3.12 there is no other in it."""

    def one(self, *choices: Any) -> Any:
        """One of the choices, which may be functions that make it."""
        chosen = self.random.choice(choices)
        return chosen() if callable(chosen) else chosen

    def fresh(self, stem: str = "v") -> str:
        """A name that was not used yet."""
        self.made += 1
        return f"{stem}{self.made}"

    def within(self, make: Callable[[], str], *names: str, shown: bool = False) -> str:
        """What ``make`` makes where further names are bound, and nothing may be assigned or awaited."""
        saved = self.names, self.bare, self.shown
        self.names, self.bare, self.shown = [*self.names, *names], True, self.shown or shown
        made = make()
        self.names, self.bare, self.shown = saved
        return made

    # ------------------------------------------------------------ expressions

    def number(self, depth: int = 3) -> str:
        """An expression that is mostly an int."""
        if depth <= 0:
            return str(self.one(lambda: self.random.choice(self.names), "0", "1", "2", "7"))
        choices = [*NUMBERS] * 3 + [*FAULTS] + ([] if self.shown else [*SHOWN] * 3)
        if not self.bare:
            choices += [*FREE] * 3
            choices += [*AWAITS] * 8 if self.inside == "async" else []
            choices += [*YIELDS] * 8 if self.inside == "gen" else []
        return self.fill(str(self.random.choice(choices)), depth)

    def items(self, depth: int = 3) -> str:
        """An expression that is mostly a list of ints."""
        if depth <= 0:
            return str(self.one("xs", "[1, 2]", "[]", "gen(2)", "Base(1)", "Own(2)"))
        choices = [*LISTS]
        if self.inside == "async" and not self.bare:
            choices += [*ASYNC_LISTS] * 4
        return self.fill(str(self.random.choice(choices)), depth)

    def fill(self, template: str, depth: int) -> str:
        """A template with its holes filled: ``$N`` a number and ``$L`` a list; ``$B`` and ``$I`` the same where
        nothing may be assigned, awaited or yielded; ``$V`` a number where v is bound, ``$F`` one in an f-string; ``$C`` and ``$D`` a comma
        and a dot, perhaps over lines."""
        head, *words = template.split("$")
        return head + "".join(self.hole(word[0], depth - 1) + word[1:] for word in words)

    def hole(self, kind: str, depth: int) -> str:
        """What fills one hole."""
        if kind in "CD":
            return str(self.one(", ", ", ", ",\n    ") if kind == "C" else self.one(".", ".", "\n  ."))
        if kind in "NL":
            return self.number(depth) if kind == "N" else self.items(depth)
        make = self.items if kind == "I" else self.number
        return self.within(lambda: make(depth), *("v" * (kind == "V")), shown=kind == "F")

    # ------------------------------------------------------------ statements

    def block(self, count: int = 3) -> str:
        """A few statements, indented."""
        known = [*self.names]
        self.level += 1
        lines = [self.statement() for _ in range(self.random.randrange(1, count + 1))]
        self.level -= 1
        self.names = known
        return textwrap.indent("\n".join(lines), "    ", lambda line: True)

    def statement(self) -> str:
        """One statement."""
        choices: list[Any] = [self.simple] * 4
        if self.level < 2 and self.inside != "class":
            choices += [self.branch, self.loop, self.attempt, self.managed, self.match, self.function]
            choices += [self.closure, self.classes, self.generator, self.asynchronous]
        return str(self.one(*choices))

    def simple(self) -> str:
        """A statement on one line."""
        if self.inside == "class":
            return self.fill(f"{self.fresh('a')} = $N", 2)
        made = self.fill(str(self.random.choice(SIMPLE)), 3)
        if "NEW" in made:
            name = self.fresh()
            made = made.replace("NEW", name)
            self.names = [*self.names, name]
        if self.loops and self.random.randrange(6) == 0:
            made += "\n" + str(self.one("break", "continue", "if say(1): break"))
        elif self.inside in ("def", "gen", "async") and self.random.randrange(8) == 0:
            made += "\n" + ("return" if self.inside == "async" else self.fill("return $N", 2))
        return made

    def branch(self) -> str:
        """if, elif, else."""
        made = self.fill("if $N:\n", 2) + self.block()
        if self.one(True, False):
            made += self.fill("\nelif $N:\n", 2) + self.block(1)
        return made + ("\nelse:\n" + self.block(1) if self.one(True, False) else "")

    def loop(self) -> str:
        """for and while, with else."""
        name = self.fresh("i")
        body = f"{name} = iter(range(3))\nwhile next({name}, None) is not None:\n"
        if self.one(True, True, False):
            body = self.fill(f"for {name} in $L:\n", 2)
            self.names = [*self.names, name]
        if self.inside == "async" and self.one(True, False):
            body = f"async for {name} in agen(2):\n"
        self.loops += 1
        made = body + self.block()
        self.loops -= 1
        return made + ("\nelse:\n" + self.block(1) if self.one(True, False, False) else "")

    def attempt(self) -> str:
        """try with whatever may follow."""
        raises = self.one("boom($N)", "raise KeyError($N)", "say($N)", "1 / 0", "raise say(ValueError($N))")
        made = "try:\n" + self.block(2) + "\n    " + self.fill(raises, 2)
        caught = self.one(
            "ValueError", "(KeyError, ValueError)", "say(Exception)", "Exception", "f(KeyError)"
        )
        end = "\nfinally:\n" + self.without_jumps()
        if self.one(True, True, False):
            made += f"\nexcept {caught} as e:\n    print(repr(e))\n" + self.block(1)
            made += "\n    raise" if self.one(True, False, False, False) else ""
            made += "\nelse:\n" + self.block(1) if self.one(True, False) else ""
            return made + (end if self.one(True, False) else "")
        return made + end

    def without_jumps(self) -> str:
        """A block that is not left by break or return (Python 3.14 warns of that in finally)."""
        loops, inside, self.loops = self.loops, self.inside, 0
        self.inside = "" if inside == "def" else inside
        made = self.fill("    say($B)", 2)
        self.loops, self.inside = loops, inside
        return made

    def managed(self) -> str:
        """with and async with."""
        name = self.fresh("m")
        manager = self.one(
            "Base($N)", "Own($N)", "manager($N)", "Own($N), Base($N)", "contextlib.suppress(KeyError)"
        )
        keyword = "with"
        if self.inside == "async" and self.one(True, False):
            keyword, manager = "async with", "Base($N)"
        return self.fill(f"{keyword} {manager} as {name}:\n", 2) + self.block()

    def match(self) -> str:
        """match on a number or a list."""
        if self.one(True, False):
            cases = self.fill(
                "    case [a, *b] if a:\n        say(a, *b)\n    case []:\n        say($N)\n", 1
            )
            return self.fill("match [*$L]:\n", 2) + cases + "    case _:\n        say()"
        cases = "    case 0 | 1:\n        say('low')\n    case int(n) if f(n):\n        say(n)\n"
        return self.fill("match $N:\n", 2) + cases + "    case other:\n        say('other', other)"

    def body(self, inside: str, *names: str) -> str:
        """The body of a function of its own."""
        saved = self.names, self.inside, self.loops, self.bare
        self.names, self.inside, self.loops, self.bare = ["x", "y", *names], inside, 0, False
        made = self.block()
        self.names, self.inside, self.loops, self.bare = saved
        return made

    def function(self) -> str:
        """A function, perhaps decorated, and calls of it."""
        name = self.fresh("g")
        decorator = self.one("", "", "@deco\n", "@wrapping\n", "@deco_with(say(1))\n", "@functools.cache\n")
        header = self.fill(f"def {name}(a, b=$N, *c, d=$N, **e):\n", 1)
        calls = self.one("$N", "$N, *$L", "b=$N, a=$N", "$N, *$L, d=$N, **{'z': $N}", "*$L")
        made = (
            decorator + header + self.body("def", "a", "b", "d") + self.fill("\n    return a if $B else d", 2)
        )
        return made + self.fill(f"\nsay({name}({calls}))", 2)

    def closure(self) -> str:
        """A function that changes a variable of the one around it."""
        out, name, kept = self.fresh("h"), self.fresh("g"), self.fresh("n")
        inner = f"def {name}(a):\n    nonlocal {kept}\n    {kept} = " + self.within(
            lambda: self.number(2), "a", kept
        )
        inner += f"\n    return lambda z={kept}: say(z, {kept})"
        made = f"def {out}():\n    {kept} = 0\n" + textwrap.indent(inner, "    ")
        return made + self.fill(f"\n    r = {name}($B)\n    return r(), {name}(1)($B)\nsay({out}())", 2)

    def classes(self) -> str:
        """A class with a library base or none, and calls of its methods."""
        name = self.fresh("K")
        base = self.one("", "(Base)", "(Sub)", "(f(Base))", "(Own)")
        method = self.fill("def go(self, a=$B):\n", 1) + self.body("def", "a") + "\n    say(a)"
        made = f"class {name}{base}:\n" + self.body("class") + "\n" + textwrap.indent(method, "    ")
        return made + self.fill(f"\nsay({name}({'$N' if base else ''})$Dgo($N))", 2)

    def generator(self) -> str:
        """A generator, driven in one of the ways."""
        name = self.fresh("it")
        made = f"def {name}(a):\n" + self.body("gen", "a") + "\n    yield a"
        drive = self.one(
            "say(*{0}($N))",
            "for q in {0}($N): say(q)",
            "r = {0}($N); say(next(r), r.send(None) if x else 0); r.close()",
            "r = {0}($N); next(r)\ntry: say(r.throw(KeyError('k')))\nexcept (KeyError, StopIteration) as e: say(repr(e))",
            "def o{0}():\n    got = yield from {0}($B)\n    say(got)\nsay(list(o{0}()))",
        )
        return made + "\n" + self.fill(drive.format(name), 2)

    def asynchronous(self) -> str:
        """A coroutine that is run."""
        if self.inside == "async":
            return self.fill("say(await co($N))", 2)
        name = self.fresh("main")
        return (
            f"async def {name}(a=1):\n"
            + self.body("async", "a")
            + f"\n    await co(a)\nasyncio.run({name}())"
        )


NUMBERS = (
    "say($N)", "f($N)", "say($N$C$N)", "say($N$Ck=$N)", "($N + $N)", "($N if $N else $N)", "($N and $N)", "($N or $N)",
    "-$N", "(not $N)", "($N < $N < $N)", "len([*$L])", "sum($L)", "max($N, 1)", "max($N, *$L)", "min($L, default=$N)",
    "(Base($N)$Dget())", "(Base($N)$Dchain()$Dget())", "(Sub($N)$Dget())", "(Own($N)$Dget($N))", "Own($N)[$N]", "(Base.build($N)$Dvalue)",
    "(lambda a, b=$N: a)($N)", "(lambda v: $V)($N)", "(lambda *v: len(v))(*$L, $N)", "next(iter($L), $N)", 
    "len('%s' % ($N,))", "len(Base($N) @ $N)", "(Own($N) @ $N)", "functools.reduce(lambda a, v: $V, $I, $N)", "int($N in $L)",
    "sorted($L, key=lambda v: $V)[:1] and 1", "{'k': $N}['k']", "dict(a=$N, **{'b': $N})['b']", "[$N, $N][-1]", "f(*[$N], **{})",
    "any(f(v) for v in $L)", "shop.f($N)", "getattr(Base($N), 'get')()", "functools.partial(f, $N)()", "apply(f, $N)", "type($N)()",
)  # fmt: skip
SHOWN = ('len(f"""{($F)} {($F)!r:>{4}}{f(1)=}""")', 'len(f"""{($F):{($F)}d}""")')
FAULTS = (
    "boom($N)",
    "say($N)()",
    "f($N).missing",
    "[][$N]",
    "say(*$N)",
    "f($N$C**$N)",
    "Base().get($N)",
    "undefined",
)
FREE = ("(w := $N)", "(w := say($N)) + f(w)")
AWAITS = (
    "await co($N)",
    "await Base($N)",
    "(await asyncio.sleep(0, $N))",
    "sum(await asyncio.gather(co($N), co($N)))",
)
YIELDS = ("((yield $N) or $N)", "(yield)", "((yield from $L) or 1)", "((yield from gen(2)) or $N)")
LISTS = (
    "[$N, $N]", "[*$L, $N]", "(*$L, $N)", "sorted({*$L, $N})", "[$V for v in $I if $V]", "[v for v in $I]", "list(gen(2))",
    "[*Base($N)]", "[*Indexed()]", "list(map(f, $L))", "[a for a, v in zip($I, Base())]", "list(v for v in $I)", "f($L)",
    "list(range(2))", "{v: $V for v in $I}", "[v for v in $I for w in gen(1) if $V]", "list(enumerate($L))[:0]", "list(filter(None, $L))",
    "list(dict.fromkeys($L))", "[[$V for w in gen(1)][0] for v in $I]", "xs[:$N]", "tuple($L)",
)  # fmt: skip
ASYNC_LISTS = (
    "[v async for v in agen(2)]",
    "[await co(v) for v in gen(2)]",
    "[v async for v in agen(2) if f(v)]",
)
SIMPLE = (
    "NEW = $N", "NEW: int = $N", "NEW = NEW2 = $N".replace("NEW2", "tmp"), "say($N)", "print($N, *$L)", "say($N$C*$L$Ck=$N)",
    "NEW, *rest = $N, *$L", "NEW, b = Base($N)", "a, b = gen(2)", "[NEW, b] = f([$N, $N])", "xs[0:0] = $L; del xs[2:]",
    "d = {'k': $N}; d['k'] += $N; say(d)", "assert f(1), $N", "from shop import f as q; q($N)", "$N", "fn = lambda a=$N: say(a)\nfn()",
    "z = Own($N); z.v += $N; say(z.v)", "b = Base($N); b @= $N; say(b)", "import shop as NEW; NEW = NEW.f($N)", "pass",
)  # fmt: skip


GOES_ON = "try:\n{}\nexcept Exception as e:\n    print(type(e).__name__, e)"


def program(random: Any, statements: int = 6) -> str:
    """One program; most of its statements may fail, and it goes on."""
    writer = Writer(random)
    lines = []
    for _ in range(random.randrange(1, statements + 1)):
        made = writer.statement()
        goes_on = random.randrange(4) > 0
        lines.append(GOES_ON.format(textwrap.indent(made, "    ", lambda line: True)) if goes_on else made)
    return HEAD + "\n".join(lines) + "\n"
