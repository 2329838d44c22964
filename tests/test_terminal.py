"""What a terminal shows of names that are not plain text."""

import io
import subprocess
import sys

import pytest
from rich.table import Table

from effdet.console import PlainConsole
from effdet.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u732b.jpg", "caf\u00e9 \u732b.jpg"),
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\rb\x07\x9b", r"a\rb\x07\x9b"),
        ("a\u202egpj.exe", r"a\u202egpj.exe"),
        ("\udcff.jpg", r"\udcff.jpg"),
    ],
)
def test_control_characters_are_shown_as_escapes(text, shown):
    assert printable(text) == shown


def test_markup_and_control_characters_in_names_do_nothing(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    console = PlainConsole()
    console.print("class [bold]\x1b[31m.jpg")
    table = Table("name")
    table.add_row("cell \x1b[2J")
    console.print(table)
    assert "class [bold]\\x1b[31m.jpg\n" in output.getvalue()
    assert "cell \\x1" in output.getvalue()  # the column is as wide as the text without them
    assert "\x1b" not in output.getvalue()


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", "a2 cafe \\u732b"), ("latin-1", "a\u00b2 caf\u00e9 \\u732b")]
)
def test_a_terminal_without_unicode_shows_the_closest_characters(encoding, shown):
    code = (
        "from effdet.cli.output import accept_any_text; from effdet.console import PlainConsole; accept_any_text();"
        r"PlainConsole().print('a\u00b2 caf\u00e9 \u732b')"
    )
    environment = {"PYTHONIOENCODING": encoding, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert done.stdout.decode(encoding) == f"{shown}\n"


def test_tables_and_progress_bars_need_no_unicode():
    code = (
        "from effdet.cli.output import accept_any_text; from effdet.console import PlainConsole; accept_any_text();"
        "from rich.table import Table; from rich.progress import track; console = PlainConsole();"
        "console._force_terminal = True; table = Table('caf\u00e9'); table.add_row('\u732b'); console.print(table);"
        "print(sum(track([1, 2], console=console)))"
    )
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "", "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert b"cafe" in done.stdout
    assert done.stdout.decode("ascii").splitlines()[-1].endswith("3")
