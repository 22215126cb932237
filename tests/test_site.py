"""The docs site: built strictly, opened in a browser, asks nobody, can be used by all."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import web

ROOT = Path(__file__).parents[1]
PAGES = ("", "tutorials/first-script/", "api/", "cli/", "how-to/completion/", "accuracy/")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built with every warning an error: links, anchors, pages in no navigation, docstrings."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        tags = re.findall(r"<(?:script|img|link|iframe)\b[^>]*>", text)
        loaded = [tag for tag in tags if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)]
        assert [tag for tag in loaded if "canonical" not in tag] == [], page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_open_without_network_or_complaint_and_are_accessible(site, scheme) -> None:
    axe = (web.npm("axe-core") / "axe.min.js").read_text(encoding="utf-8")
    with web.served(site) as address, web.browser() as chromium:
        context = chromium.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        for each in PAGES:
            page.goto(f"{address}/{each}", wait_until="networkidle")
            page.evaluate(axe)
            # The theme's frame, and the bar it puts on blocks of code, are not ours to mend; the article is.
            found = page.evaluate("axe.run({include: ['article'], exclude: ['.md-code__nav']})")["violations"]
            assert [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found] == [], each
        assert said == []
        assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_a_small_screen_scrolls_only_down(site) -> None:
    with web.served(site) as address, web.browser() as chromium:
        page = chromium.new_context(viewport={"width": 390, "height": 844}).new_page()
        for each in PAGES:
            page.goto(f"{address}/{each}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, each
