"""What every lesson has to have, read from its file; running it is the build's part."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
PRACTICAL = ROOT / "notebooks/pruning-practical.ipynb"  # has tasks in place of a lesson's sections
LESSONS = sorted(set((ROOT / "notebooks").glob("*.ipynb")) - {PRACTICAL})
SECTIONS = [
    "Predict", "The idea in one picture", "Definition → code", "What happened, against your prediction",
    "Exercises", "Quiz", "Pitfalls and limits", "What you did not build · references",
]  # fmt: skip


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request):
    return nbformat.read(request.param, as_version=4)


def prose(lesson):
    return "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")


def code(lesson):
    return "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "code")


def test_sections_stand_in_order(lesson):
    headings = re.findall(r"^## (.*)$", prose(lesson), re.MULTILINE)
    assert [h for h in headings if h in SECTIONS] == SECTIONS
    course = lesson.metadata["course"]
    assert 0 < course["minutes"] <= 60
    assert all((ROOT / f"notebooks/{name}.ipynb").exists() for name in course["needs"])


def test_prose_is_short_enough(lesson):
    text = re.sub(r"\$\$.*?\$\$|\$.*?\$|^:::.*$|!\[.*?\]", "", prose(lesson), flags=re.DOTALL)
    text = re.sub(r"\(?\[[^]]*\]\(\.\./book/references\.bib#\w+\)\)?", "citation", text)
    assert len(text.split()) <= 1400


def test_template(lesson):
    text = code(lesson)
    widgets = len(re.findall(r"\b(?:explorer|scrub)\(", text))
    assert text.count("predict(") == 1 and 1 <= widgets <= 2
    assert len(re.findall(r"^    Question\(", text, re.MULTILINE)) == 5
    assert re.search(r"^SEEDS = range\(([5-9]|\d\d+)\)", text, re.MULTILINE)
    assert len(re.findall(r"\bclaims\.(?:greater|equal|every)\(", text)) >= 2
    assert "random" in text and "teaching.setup()" in text
    assert "teaching.bill(" in text or "measure.latency(" in text
    gated = [c for c in lesson.cells if "gated" in c.metadata.get("tags", [])]
    assert any(re.search(r"\b(?:explorer|scrub|plots\.show)\(", c.source) for c in gated)


def test_visible_code_is_short_and_narrow(lesson):
    folded = {"remove-input", "hide-input", "hide-cell", "remove-cell"}
    cells = [
        cell.source.splitlines()
        for cell in lesson.cells
        if cell.cell_type == "code" and not folded & set(cell.metadata.get("tags", []))
    ]
    lines = [line for cell in cells for line in cell if line.strip()]
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 76] == []


def test_what_the_data_say_waits_for_the_prediction(lesson):
    """Its output behind a gate, its code folded: both hold the sentence or the picture's words."""
    code = [cell for cell in lesson.cells if cell.cell_type == "code"]
    asked = next(n for n, cell in enumerate(code) if cell.source.startswith("predict("))
    says = re.compile(r"\b(?:claims\.(?:greater|equal|every|faster)|plots\.show)\(")
    for position, cell in enumerate(code):
        tags = set(cell.metadata.get("tags", []))
        if re.search(r"\bclaims\.(?:greater|equal|every|faster)\(", cell.source):
            assert position > asked and "gated" in tags, cell.source
        if "gated" in tags and says.search(cell.source):
            assert tags & {"hide-input", "remove-input"}, cell.source


def test_cells_that_measure_time_run_alone(lesson):
    for cell in lesson.cells:
        if cell.cell_type == "code" and re.search(r"\b(?:latency|turns|bill)\(", cell.source):
            assert "alone" in cell.metadata.get("tags", []), cell.id


def test_every_exercise_has_a_stub_and_a_folded_solution_that_is_checked(lesson):
    stubs = re.findall(r"^check\(\"(\w+)\", \w+\)$", code(lesson), re.MULTILINE)
    assert len(stubs) == 3
    for cell in lesson.cells:
        if "assert check(" in cell.source:
            assert cell.metadata.tags == ["hide-cell"]
            stubs.remove(re.search(r"assert check\(\"(\w+)\", \w+\)\.passed", cell.source)[1])
    assert not stubs


def test_jupyterlab_folds_what_the_page_folds(lesson):
    """So that a class sees no answer, no solution, and no claim before it has predicted."""
    folded = {"gated", "hide-input", "remove-input", "hide-cell"}
    for cell in lesson.cells:
        kept = {"source_hidden": True} if folded & set(cell.metadata.get("tags", [])) else {}
        assert cell.metadata.get("jupyter", {}) == kept, cell.id


def test_the_practical_has_ten_tasks_and_folds_its_solutions():
    practical = nbformat.read(PRACTICAL, as_version=4)
    text = code(practical)
    tasks = re.findall(r"^## Task (\d+) · ", prose(practical), re.MULTILINE)
    assert tasks == [str(number) for number in range(1, 11)]
    stubs = re.findall(r"^check\(\"(\w+)\", \1\)$", text, re.MULTILINE)
    assert stubs == re.findall(r"assert check\(\"(\w+)\", \w+\)\.passed", text)
    assert stubs == re.findall(r"carry_on\(\"(\w+)\", \1\)", text)
    assert len(stubs) == 9 and "leaderboard.save(" in text
    test_visible_code_is_short_and_narrow(practical)
    test_jupyterlab_folds_what_the_page_folds(practical)
    test_cells_that_measure_time_run_alone(practical)


@pytest.mark.parametrize("path", [*LESSONS, PRACTICAL], ids=lambda path: path.stem)
def test_committed_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None


def test_pictures_are_those_that_their_code_draws(tmp_path):
    spec = importlib.util.spec_from_file_location("draw", ROOT / "img/draw.py")
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    draw.write(tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (ROOT / "img").glob("*.svg")}
    assert drawn.keys() == kept.keys()
    different = [name for name in drawn if drawn[name] != kept[name]]
    assert not different, f"{different} changed: run python img/draw.py"


def test_every_picture_is_shown_and_described():
    pages = [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/*.md")]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    described = set(re.findall(r"!\[[^\]]{20,}\]\(\.\./img/([\w-]+\.svg)\)", text))
    assert described == {path.name for path in (ROOT / "img").glob("*.svg")}
