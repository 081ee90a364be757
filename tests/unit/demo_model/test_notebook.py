"""The notebook: its code runs, and what it has saved is a small, clean run whose numbers its text tells."""

import copy
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOK = Path(__file__).resolve().parents[3] / "docs" / "notebooks" / "trace-and-edit.ipynb"
SMALL = 'prompts, others, steps, sites = prompts[:2], others[:2], 2, "text.0.self_attn"'
LARGEST_FILE = 300_000
NUMBER = re.compile(r"\d+\.\d+|\d+(?= ?%)")


@pytest.fixture(scope="module")
def saved():
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    return book


def code_of(book):
    return [cell for cell in book.cells if cell.cell_type == "code"]


def text_of(cell):
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def kinds(cell):
    """What a cell puts out: texts, pictures."""
    return [(one.output_type, *sorted(one.get("data", {}))) for one in cell.outputs]


def executed(book, folder):
    """A copy of the notebook whose code has run, with small settings behind its own."""
    book = copy.deepcopy(book)
    (parameters,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source += f"\n{SMALL}"
    NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return book


def test_its_code_runs_and_puts_out_what_is_saved(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ran = executed(saved, tmp_path)
    assert [kinds(cell) for cell in code_of(ran)] == [kinds(cell) for cell in code_of(saved)]
    told = "\n".join(map(text_of, code_of(ran)))
    assert "text.0.self_attn" in told and "layer 0 edited" in told
    lost = []
    for name in ("before", "after"):
        clean, corrupted = re.search(rf"{name}: clean (\S+), corrupted (\S+),", told).groups()
        lost.append(float(clean) - float(corrupted))
    # What hiding the name takes away: much as the model is, little when it is edited.
    assert lost[0] > 0.1 and abs(lost[1]) < lost[0] / 2
    assert not [*tmp_path.iterdir()]


def test_an_error_in_its_code_is_not_passed_over(saved, tmp_path):
    broken = copy.deepcopy(saved)
    broken.cells = [nbformat.v4.new_code_cell("prompts = others = []", metadata={"tags": ["parameters"]})]
    broken.cells.append(nbformat.v4.new_code_cell("prompts[0][0]"))
    with pytest.raises(CellExecutionError, match="IndexError"):
        executed(broken, tmp_path)


def test_what_is_saved_is_a_whole_run_without_errors(saved):
    cells = code_of(saved)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert {one.output_type for cell in cells for one in cell.outputs} == {"stream", "display_data"}
    assert {one.name for cell in cells for one in cell.outputs if one.output_type == "stream"} == {"stdout"}
    assert NOTEBOOK.stat().st_size < LARGEST_FILE


def test_the_numbers_of_its_text_are_those_of_the_run(saved):
    """Every decimal number and percentage of a text stands in what some cell above it has put out."""
    above, told = "", 0
    for cell in saved.cells:
        if cell.cell_type == "code":
            above += text_of(cell)
            continue
        numbers = NUMBER.findall(cell.source)
        assert not [number for number in numbers if number not in NUMBER.findall(above)], cell.source
        told += len(numbers)
    assert told > 5


def test_colab_installs_what_the_notebook_needs_from_the_repository(saved):
    first = code_of(saved)[0]
    assert "git+https://github.com/diff-quickfix/diff-quickfix" in first.source and "ImportError" in first.source
