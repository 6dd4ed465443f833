"""Progress bars: what is left of them."""

import os
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from cnnprune_utils.progress import progress

CODE = """
from cnnprune_utils.progress import progress

print(sum(progress(range(3), desc="counting")))
"""


def test_in_a_terminal_a_bar_goes_when_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(progress(range(3), desc="counting", disable=False)) == 3
    told = capsys.readouterr().err
    assert "counting" in told
    assert not told.rpartition("\r")[2].strip()
    assert told.endswith("\r")


@pytest.mark.parametrize("disabled", ["", "1"])
def test_in_a_notebook_nothing_is_left_of_a_bar(disabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)])
    NotebookClient(notebook, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    assert [output.text for output in outputs if output.output_type == "stream"] == ["3\n"]
    bars = [output.data for output in outputs if output.output_type == "display_data"]
    assert bars == ([] if disabled else [{"text/plain": ""}])
