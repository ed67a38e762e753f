"""Citations that read well everywhere, and the file that a page offers to download."""

import base64
import re
from pathlib import Path

import nbformat
import portable
import pytest
from pybtex.database import parse_file

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request):
    return nbformat.read(request.param, as_version=4)


def words(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_lessons_name_works_as_the_bibliography_does(lesson):
    """`[Han et al. (2015)](../book/references.bib#han2015learning)`, and no {cite} role."""
    references = parse_file(ROOT / "book/references.bib").entries
    assert "{cite" not in words(lesson)
    cited = portable.CITED.findall(words(lesson))
    assert cited
    for brackets, said, key in cited:
        assert said == portable.label(references[key], textual=not brackets)
    assert words(lesson).count("references.bib") == len(cited)


def test_on_the_page_they_are_citations():
    first = "As [Han et al. (2015)](../book/references.bib#han2015learning) say [a](b) "
    source = [first + "([Han et al., 2016](../book/references.bib#han2016deep))."]
    portable.cite(None, "notebooks/a", source)
    assert source == ["As {cite:t}`han2015learning` say [a](b) {cite}`han2016deep`."]


def test_a_lesson_whose_links_became_citations_is_a_notebook(lesson):
    """Sphinx hands over the file as text."""
    source = [nbformat.writes(lesson)]
    portable.cite(None, "notebooks/a", source)
    found = nbformat.reads(source[0], as_version=4)
    assert "references.bib" not in words(found)
    assert words(found).count("{cite") == words(lesson).count("references.bib")


def test_the_file_to_download_needs_no_other_file(lesson):
    before = nbformat.writes(lesson)
    copy = portable.alone(lesson, ROOT, "")
    assert nbformat.writes(lesson) == before
    nbformat.validate(copy)
    text = words(copy)
    assert not re.search(r"\{[a-z:]+\}`|^:::|\]\((?!https:|attachment:)", text, re.MULTILINE)
    drawings = re.findall(r"\]\(\.\./img/([\w.-]+)\)", words(lesson))
    attached = {name: data for c in copy.cells for name, data in c.get("attachments", {}).items()}
    assert sorted(attached) == sorted(drawings) == sorted(re.findall(r"attachment:([\w.-]+)", text))
    for name, data in attached.items():
        assert base64.b64decode(data["image/svg+xml"]) == (ROOT / "img" / name).read_bytes()
    assert [c for c in copy.cells if c.cell_type == "code"] == [
        c for c in lesson.cells if c.cell_type == "code"
    ]


def test_hints_fold_and_links_become_words():
    references = parse_file(ROOT / "book/references.bib").entries
    text = (
        ":::{dropdown} Hint 1\nLook at `x`.\n:::\n:::{dropdown} Hint 2\nMore.\n:::\n\n"
        "See [the lesson](criteria.ipynb), [a site](https://a.org) and {ref}`seeds <notation-seeds>`; "
        "([Han et al., 2015](../book/references.bib#han2015learning)), "
        "[Huffman (1952)](../book/references.bib#huffman1952)."
    )
    found = portable.plain(text, references)
    assert found.count("<details>") == found.count("</details>") == 2
    assert "<summary>Hint 1</summary>\n\nLook at `x`.\n\n</details>" in found
    assert "See *the lesson*, [a site](https://a.org) and seeds; " in found
    assert "; ([Han et al., 2015](https://arxiv.org/abs/1506.02626)), " in found


def test_the_first_cell_installs_the_library(lesson):
    first = portable.alone(lesson, ROOT, "").cells[0]
    assert first.cell_type == "markdown" and 'pip install ".[lessons]"' in first.source
    first = portable.alone(lesson, ROOT, "https://example.org/course.git").cells[0]
    install = '%pip install --quiet "course_lib[lessons] @ git+https://example.org/course.git"'
    assert first.cell_type == "code" and install in first.source.splitlines()
