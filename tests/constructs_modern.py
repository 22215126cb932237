"""Constructs of Python 3.12 and later, in the form of ``constructs``; none before."""

import sys

TYPES: list[tuple[str, str, str]] = [
    ("type alias", "type A = f(list[int])\nprint('made')\nprint(A.__value__)", "f"),
    ("type alias with parameters", "type A[T, *Ts, **P] = f((T, Ts, P))\nprint(A.__value__)", "f"),
    ("lambda in a type alias", "type A[T] = list[(lambda: f(T))()]\nprint(A.__value__)", "f"),
    ("generic function", "def g[T: f(int)](x: T) -> f(T): return f(x)\nprint(g(1), g.__type_params__[0].__bound__)", "f f f"),
    ("generic function with a default", "def g[T, *Ts](x=f(1), *y: *Ts) -> T: return x\nprint(g(), g.__type_params__)", "f"),
    ("generic class with super", "class A[T](Base):\n    def get(self) -> T: return super().get()\nprint(A(3).get())", "Base Base.get Base.get"),
    ("generic class on a base by a call", "class A[T](f(Base)):\n    x: T = f(1)\nprint(A(2), A.x)", "f f Base"),
    ("generic class with a decorator", "@deco\nclass A[T: (f(int), f(str))]: pass\nprint(A.__type_params__[0].__constraints__)", "deco f f"),
    ("generic coroutine", "async def g[T](x: T): return await co(f(x))\nimport asyncio\nprint(asyncio.run(g(1)))", "f co co"),
    ("quotes of its own in an f-string", "print(f'{f('a')} {f(\"b\" + '\\n')!r} {f'{f(1)}'}')", "f f f"),
    ("comment in an f-string", 'print(f"{\n    f(1)  # why\n}")', "f"),
    ("f-string that shows itself", "print(f'{f( 1 ) = }', f'{f(f(2))=:>5}', f'{[*gen(1)] = !s}')", "f f f gen gen gen gen"),
    ("f-string that shows itself inside another", "print(f'{f(1)} {f'{f(2)=}'} {f(3)}')", "f f f"),
    ("error in an f-string", "print(f'{f(1)}'\n      f'{boom(2)}')", "f boom"),
    ("locals() in a comprehension of a function", "def g():\n    y = f(1)\n    return [sorted(locals()) for i in range(f(1))]\nprint(g())", "f f"),
    ("comprehension that shadows", "i = 5\nprint([f(i) for i in range(2)], i, [i for _ in gen(1)])", "f f gen gen gen gen"),
    ("comprehension in a class that looks around", "class A:\n    y = f(2)\n    z = [f(i) for i in range(y)]\nprint(A.z)", "f f f"),
]  # fmt: skip
DEFAULTS: list[tuple[str, str, str]] = [
    ("type parameter with a default", "def g[T = f(int)](x: T): return f(x)\nprint(g(1), g.__type_params__[0].__default__)", "f f"),
    ("type alias with defaults", "type A[T = f(int), *Ts = *f(tuple[int])] = f(T)\nprint(A.__value__, A.__type_params__[0].__default__)", "f f"),
]  # fmt: skip

MODERN = [*(TYPES if sys.version_info >= (3, 12) else ()), *(DEFAULTS if sys.version_info >= (3, 13) else ())]
