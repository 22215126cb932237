"""Builds the recorder's hot path and RAPL's; where no C compiler is at hand their Python twins serve."""

from pathlib import Path

from setuptools import Extension, setup

NAMES = ("_recorder", "_powercap")


def extension(name: str) -> Extension:
    """The extension of one C file."""
    source = f"src/joulemeter/{name}.c"
    return Extension(f"joulemeter.{name}", [source], extra_compile_args=["-O2"], optional=True)


setup(ext_modules=[extension(name) for name in NAMES if Path(f"src/joulemeter/{name}.c").exists()])
