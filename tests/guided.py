"""Pages of the docs, followed as a reader would: files written, commands typed, what they print compared.

- A block with a title is a file: ```` ```python title="train.py" ````. One without is run, if it is Python.
- A ``console`` block is typed into one shell, line by line after its ``$``. A command has to end with status 0,
  unless the next one asks for it (``echo $?``).
- What the page prints below a command has to be printed, in order; figures may differ, ``…`` stands for whatever
  comes between. Other blocks (``text``) show, and are not compared.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

_UNIT = r"(?:\s?(?:[kMGTmµn]?(J|W|s|B|Hz|FLOP|MAC)\b|(%)))?"
_DIGEST = re.compile(r"\b[0-9a-f]{12}\b")
_FIGURE = re.compile(rf"[-+±≤]?\s?\b\d[\d,.]*(?:e[+-]?\d+)?{_UNIT}")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its title (a file's name) or none, its text, and its line on the page."""

    language: str
    title: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order, those inside lists and notes included."""
    found = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            language, _, rest = token.info.strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            found.append(Block(language, title[1] if title else "", token.content, (token.map or [0])[0] + 1))
    return found


def typed(text: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines printed below it."""
    command, printed = "", []
    for line in text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, printed
            command, printed = line[2:], []
        elif command.endswith("\\"):
            command += "\n" + line
        else:
            printed.append(line)
    yield command, printed


def plain(line: str) -> str:
    """A line with figures made alike, of any magnitude but of their unit, digests too, and blanks run together."""
    line = _DIGEST.sub("digest", line)
    return " ".join(_FIGURE.sub(lambda found: f" #{found[1] or found[2] or ''} ", line).split())


def agrees(expected: list[str], printed: str) -> bool:
    """Whether ``printed`` has the expected lines in order, adjacent where no ``…`` stands between."""
    lines = [plain(line) for line in expected]
    while lines and not lines[-1]:
        del lines[-1]
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n" for line in lines
    )
    said = "".join(plain(line) + "\n" for line in printed.splitlines())
    return re.search(rf"^{pattern}", said, re.M) is not None


class Shell:
    """A bash in ``folder`` that lives as long as the page."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._bash = subprocess.Popen(
            ["bash", "--norc"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=folder, start_new_session=True, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._status = 0

    def run(self, command: str) -> tuple[str, int]:
        """What the command printed on both streams, and its status."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"(exit {self._status}); {command}\nprintf '\\001%s\\n' $?\n")
        self._bash.stdin.flush()
        said = ""
        for line in self._bash.stdout:
            head, mark, status = line.partition("\x01")
            said += head
            if mark:
                self._status = int(status)
                return said, self._status
        raise AssertionError(f"the shell ended at: {command}\n{said}")

    def close(self) -> None:
        """Ends the shell and whatever it left running."""
        os.killpg(self._bash.pid, signal.SIGTERM)
        self._bash.communicate()


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    """A shell, closed afterwards."""
    opened = Shell(folder)
    try:
        yield opened
    finally:
        opened.close()


def follow(page: Path, folder: Path) -> None:
    """Does all that the page says, in ``folder``; raises AssertionError where something else came out."""
    with shell(folder) as opened:
        for block in blocks(page):
            if block.title:
                place = folder / block.title
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                (folder / ".block.py").write_text(block.text, encoding="utf-8")
                said, status = opened.run("PYTHONPATH=. python .block.py")
                assert status == 0, f"{page.name}:{block.line}\n{said}"
            elif block.language == "console":
                _type(opened, block, page)


def _type(opened: Shell, block: Block, page: Path) -> None:
    commands = list(typed(block.text))
    for place, (command, expected) in enumerate(commands):
        said, status = opened.run(command)
        asked = place + 1 < len(commands) and commands[place + 1][0] == "echo $?"
        where = f"{page.name}:{block.line} $ {command}\n{said}"
        assert status == 0 or asked, f"status {status} at {where}"
        assert agrees(expected, said), f"the page shows\n{chr(10).join(expected)}\nat {where}"
