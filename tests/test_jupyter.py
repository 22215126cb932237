"""The notebook extension, in a real IPython."""

import pytest

pytest.importorskip("IPython")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "joulemeter")
    yield shell
    shell.history_manager.end_session()


def test_a_cell_runs_in_the_notebook_and_shows_its_ledger(shell, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    shell.run_cell_magic("joules", "simulated:load=constant", "x = 6 * 7")
    assert shell.user_ns["x"] == 42
    html = shown[0]._repr_html_()
    assert "simulated" in html
    assert "<b>total</b>" in html


def test_a_line_gives_its_ledger(shell) -> None:  # type: ignore[no-untyped-def]
    ledger = shell.run_line_magic("joules", "y = 1")
    assert shell.user_ns["y"] == 1
    ledger.check()


def test_a_source_that_is_not_there_is_one_line(shell, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    shell.run_cell_magic("joules", "sundial", "z = 1")
    out = capsys.readouterr()
    assert "no source 'sundial'" in out.out + out.err
    assert "z" not in shell.user_ns
