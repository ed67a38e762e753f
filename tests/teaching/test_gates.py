"""The bar before a gated cell's outputs; tests/book/test_lab.py sees it hide them in JupyterLab."""

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from course_lib.teaching import gates


@pytest.fixture
def shell():
    shell = InteractiveShell.instance()
    yield shell
    InteractiveShell.clear_instance()


def outputs(shell, metadata, monkeypatch) -> list:
    """What a cell displays that runs with this metadata in the request, as JupyterLab sends it."""
    parent = {"metadata": metadata}
    monkeypatch.setattr(shell, "get_parent", lambda: parent, raising=False)
    with capture_output() as captured:
        assert shell.run_cell("display('the answer')").success
    return [output.data for output in captured.outputs]


def test_a_gated_cell_begins_with_the_bar(shell, monkeypatch):
    gates.close_gated()
    gates.close_gated()  # a first cell that runs twice makes no second bar
    bar, answer = outputs(shell, {"tags": ["hide-input", "gated"]}, monkeypatch)
    assert bar["text/html"] == gates.BAR and answer["text/plain"] == "'the answer'"


@pytest.mark.parametrize("metadata", [{}, {"tags": []}, {"tags": ["hide-input"]}])
def test_other_cells_have_none(shell, monkeypatch, metadata):
    gates.close_gated()
    assert [list(data) for data in outputs(shell, metadata, monkeypatch)] == [["text/plain"]]


def test_a_shell_without_requests_and_no_shell_are_left_alone(shell):
    gates.close_gated()
    assert shell.run_cell("1 + 1").success
    InteractiveShell.clear_instance()
    gates.close_gated()
