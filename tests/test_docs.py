"""Docs are kept true by running them."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

import joulemeter
from joulemeter.cli import command as root

DOCS = Path(__file__).parents[1] / "docs"


def test_the_command_reference_is_what_the_commands_say() -> None:
    """If this fails: python docs/make_cli_reference.py

    In a process of its own: click keeps the help option of a command that a test has called by itself.
    """
    code = "import make_cli_reference, sys; sys.stdout.buffer.write(make_cli_reference.reference().encode())"
    done = subprocess.run([sys.executable, "-c", code], cwd=DOCS, capture_output=True, check=True, timeout=60)
    assert (DOCS / "cli.md").read_text(encoding="utf-8") == done.stdout.decode()


def commands() -> list[click.Command]:
    context = click.Context(root)
    found = [root.get_command(context, name) for name in root.list_commands(context)]
    inner = [
        each.get_command(context, name)
        for each in found
        if isinstance(each, click.Group)
        for name in each.list_commands(context)
    ]
    return [each for each in [*found, *inner] if each is not None]


@pytest.mark.parametrize("command", commands(), ids=lambda c: str(c.name))
def test_every_command_and_option_explains_itself(command: click.Command) -> None:
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{command.name} {parameter.opts}"


def test_every_public_name_stands_in_the_docs() -> None:
    text = "".join(
        path.read_text(encoding="utf-8") for path in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]
    )
    missing = [name for name in joulemeter.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == []


def examples() -> list[tuple[str, str]]:
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    return [(f"example-{n}", code) for n, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))]


@pytest.mark.parametrize(("name", "code"), examples(), ids=[name for name, _ in examples()])
def test_the_examples_of_the_python_page_run(name: str, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_in_the_reference_made_of_docstrings() -> None:
    listed = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.M)
    homes = {f"{home}.{name}" for name, home in joulemeter._HOME.items()}
    assert homes - set(listed) == {"joulemeter.errors.JoulemeterError"}
    assert "joulemeter.errors" in listed


def navigated(entry: object) -> Iterator[str]:
    """The pages that a part of mkdocs.yml's ``nav`` names."""
    if isinstance(entry, str):
        yield entry
    else:
        for each in entry.values() if isinstance(entry, dict) else entry:
            yield from navigated(each)


def test_every_page_is_in_the_sites_navigation() -> None:
    """If this fails: name the page under ``nav`` in mkdocs.yml"""
    nav = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(navigated(nav)) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
