"""The notebook extension, in a real IPython."""

import pytest

import sample_run

pytest.importorskip("IPython")


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_line_magic("load_ext", "joulemeter")
    yield shell
    shell.history_manager.end_session()


@pytest.mark.parametrize("line", ["{}", "--source {}", "--source={} "])
def test_a_cell_runs_in_the_notebook_and_shows_its_ledger(
    shell, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:  # type: ignore[no-untyped-def]
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    shell.run_cell_magic("joules", line.format("simulated:load=constant"), "x = 6 * 7")
    assert shell.user_ns["x"] == 42
    html = shown[0]._repr_html_()
    assert "simulated" in html
    assert "<b>total</b>" in html


def test_a_line_gives_its_ledger(shell) -> None:  # type: ignore[no-untyped-def]
    ledger = shell.run_line_magic("joules", "y = 1")
    assert shell.user_ns["y"] == 1
    ledger.check()


CELL = """class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(64, 64)
    def forward(self, x):
        return torch.relu(self.inner(x))
net = Net()
for _ in range(5):
    y = net(x)
y.shape"""


def test_a_cells_calls_have_a_line_each_and_what_it_defined_goes_on_without_a_meter(  # type: ignore[no-untyped-def]
    shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    shell.run_cell("import torch; x = torch.ones(2, 64)")
    compiler = shell.compile
    shell.run_cell_magic("joules", "simulated:load=cpu", CELL)
    calls = {(site.site.name, site.site.file, site.site.line): site.calls for site in shown[0].sites}
    assert calls["torch.relu", "cell", 6] == 5
    assert calls["torch.nn.Module.__call__", "cell", 9] == 5
    assert "<td>torch.relu  cell:6</td>" in shown[0]._repr_html_()
    assert "torch.relu  cell:6" in str(shown[0])
    shown[0].check()
    assert shell.compile is compiler
    assert shell.run_cell("net(x).shape").result == (2, 64)


def test_a_cell_that_awaits_is_refused_in_one_line(shell, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    shell.run_cell_magic("joules", "", "import asyncio\nawait asyncio.sleep(0)\nz = 1")
    out = capsys.readouterr()
    assert "a cell that awaits cannot run in a magic" in out.out + out.err
    assert "z" not in shell.user_ns


def test_a_source_that_is_not_there_is_one_line(shell, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    shell.run_cell_magic("joules", "sundial", "z = 1")
    out = capsys.readouterr()
    assert "no source 'sundial'" in out.out + out.err
    assert "z" not in shell.user_ns


def test_in_a_real_kernel_a_cell_shows_its_ledger_as_html_with_origin_and_interval(tmp_path) -> None:  # type: ignore[no-untyped-def]
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    cells = [
        "%load_ext joulemeter",
        "%%joules simulated:load=constant\nimport time\ntime.sleep(0.3)\nx = 6 * 7",
        "x",
        "ledger = %joules sum(range(100_000))\nledger",
        "%%joules sundial\ny = 1",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(
        book, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    _, metered, value, line, refused = book.cells
    html = next(out["data"]["text/html"] for out in metered.outputs if "text/html" in out.get("data", {}))
    assert "simulated" in html
    assert "95 % interval" in html
    assert value.outputs[0]["data"]["text/plain"] == "42"
    assert sum("<table" in out.get("data", {}).get("text/html", "") for out in line.outputs) == 1
    assert "no source 'sundial'" in "".join(map(str, refused.outputs))


def test_a_site_that_cannot_be_told_apart_is_shown_with_what_can_be_said(tmp_path) -> None:  # type: ignore[no-untyped-def]
    html = sample_run.ledger(sample_run.run(tmp_path))._repr_html_()
    assert "<td>not told apart from encoder.layer</td><td>jointly 11.7 J – 14.3 J</td>" in html
    assert "<td>unattributed</td><td></td><td>65.1 J</td>" in html
    assert "torch.relu &lt;b&gt;" in html
    assert "<td>unknown</td>" in html
    assert "<p>note: package-0: idle power was seen before the first span</p>" in html
