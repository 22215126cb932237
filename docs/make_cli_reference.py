"""Writes docs/cli.md from the commands themselves: python docs/make_cli_reference.py"""

from pathlib import Path

import click

from joulemeter.cli import command as root

TARGET = Path(__file__).with_name("cli.md")


def reference() -> str:
    """The whole page, in Markdown."""
    context = click.Context(root, info_name="joulemeter", terminal_width=100, **root.context_settings)
    parts = [
        "# Command line\n",
        "Made from the commands by `python docs/make_cli_reference.py`.\n",
        help_of(context, root),
    ]
    for name in root.list_commands(context):
        found = root.get_command(context, name)
        assert found is not None
        parts += section(context, name, found)
    return "\n".join(parts)


def section(parent: click.Context, name: str, command: click.Command) -> list[str]:
    """A command's heading and help; of a group, those of its commands too."""
    context = click.Context(command, info_name=name, parent=parent, max_content_width=100, terminal_width=100)
    parts = [f"\n## {context.command_path}\n", help_of(context, command)]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            parts += section(context, inner, found)
    return parts


def help_of(context: click.Context, command: click.Command) -> str:
    """The help text, as it is printed."""
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
