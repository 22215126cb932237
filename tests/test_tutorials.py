"""The tutorials, followed word by word: every file written, every command typed, what they print compared."""

from pathlib import Path

import pytest

import guided

pytestmark = pytest.mark.alone

TUTORIALS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("[!i]*.md"))


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says(page: Path, tmp_path: Path) -> None:
    guided.follow(page, tmp_path)


def test_every_block_of_a_tutorial_is_run_or_is_output() -> None:
    kinds = {block.language for page in TUTORIALS for block in guided.blocks(page) if not block.title}
    assert kinds <= {"console", "python", "text"}


def page(folder: Path, text: str) -> Path:
    place = folder / "page.md"
    place.write_text(text)
    return place


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ false\n```",
        "```console\n$ echo 5 J\n6 W\n```",
        "```console\n$ printf 'a\\nb\\nc\\n'\na\nc\n```",
        "```console\n$ echo b; echo a\na\n…\nb\n```",
        "```python\nassert 1 == 2\n```",
    ],
)
def test_a_page_that_says_something_else_is_caught(text: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        guided.follow(page(tmp_path, text), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ echo 12.3 mJ\n4 J\n```",
        "```console\n$ printf 'a\\nb\\nc\\n'\na\n…\nc\n```",
        "```console\n$ (exit 3)\n$ echo $?\n3\n```",
        '```text title="x/y.txt"\nhello\n```\n\n```console\n$ cat x/y.txt\nhello\n$ cd x; a=1\n$ echo $a $(ls)\n1 y.txt\n```',
    ],
)
def test_a_page_that_is_true_passes(text: str, tmp_path: Path) -> None:
    guided.follow(page(tmp_path, text), tmp_path)
