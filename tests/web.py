"""Headless Chromium and packages from npm, for tests that open what we write in its real reader."""

import functools
import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
]


@contextmanager
def browser() -> Iterator[object]:
    """A headless Chromium; skips where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield opened
        finally:
            opened.close()


def npm(package: str) -> Path:
    """The folder of an npm package, fetched once into a cache; skips where npm cannot."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "joulemeter-tests"
    folder = cache / "node_modules" / package
    if not (folder / "package.json").exists():
        if shutil.which("npm") is None:
            pytest.skip(f"npm is not installed, to fetch {package}")
        cache.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(cache), package],
            capture_output=True,
            timeout=90,
            check=False,
        )
        if done.returncode:
            pytest.skip(
                f"npm could not fetch {package}: {done.stderr.decode(errors='replace').strip()[-200:]}"
            )
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Says nothing: tests read stderr."""


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[str]:
    """The address at which ``folder`` is served meanwhile."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", port), functools.partial(_Quiet, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
