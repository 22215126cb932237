"""Builds the recorder's hot path; where no C compiler is at hand the Python twin serves."""

from pathlib import Path

from setuptools import Extension, setup

SOURCE = "src/joulemeter/_recorder.c"

setup(
    ext_modules=[Extension("joulemeter._recorder", [SOURCE], extra_compile_args=["-O2"], optional=True)]
    if Path(SOURCE).exists()
    else []
)
