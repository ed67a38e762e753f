"""Replication, on two toy lessons: what it notes, where it goes on, and what the page says of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import build
import nbformat
import psutil
import pytest
import replicate
from bs4 import BeautifulSoup
from replicate import replication

ROOT = Path(__file__).resolve().parents[2]
# Holds on odd sets, fails on even ones, by the numbers that the offset draws.
EXPERIMENT = """\
import os
from course_lib import seeds
from course_lib.teaching import claims
shift = int(os.environ.get("COURSE_OFFSET", "1"))
print(shift, file=open("../runs.txt", "a"))
assert seeds.shifted(0) == shift * seeds.DISTANCE or "COURSE_OFFSET" not in os.environ
low, high = [1, 2, 3, 4, 5], [2, 3, 4, 5, 6.5]
"""
CLAIM = """\
claims.greater("Odd is better", *((high, low) if shift % 2 else (low, high)), by=0.5)
"""
SAME = """\
claim = claims.equal("The same", low, low, within=1, unit="ρ")
quiz = "not a claim"
"""


def write_notebook(root: Path, name: str, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_markdown_cell(f"# Lesson {name}")]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(notebook, root / f"notebooks/{name}.ipynb")


@pytest.fixture
def tree(tmp_path) -> Path:
    """A repository with the real library and one toy lesson."""
    (tmp_path / "book").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "course_lib").symlink_to(ROOT / "course_lib")
    toc = {"format": "jb-book", "root": "book/intro", "chapters": [{"file": "notebooks/a"}]}
    (tmp_path / "book/_toc.yml").write_text(json.dumps(toc))
    write_notebook(tmp_path, "a", EXPERIMENT, CLAIM + SAME)
    return tmp_path


def runs(tree: Path) -> list[int]:
    """Which sets ran since the last look."""
    notes = tree / "runs.txt"
    ran = notes.read_text().split() if notes.exists() else []
    notes.unlink(missing_ok=True)
    return sorted(map(int, ran))


def recorded(tree: Path) -> dict:
    return json.loads((tree / "book/replication.json").read_text(encoding="utf-8"))


def now(tree: Path, cell: int) -> str:
    notebook = nbformat.read(tree / "notebooks/a.ipynb", as_version=4)
    return replication.hashes(notebook.cells)[cell]


def test_claims_are_noted_and_a_failing_one_stops_nothing(tree, capsys):
    assert replicate.main(["--sets", "2"], tree) == 0
    assert runs(tree) == [1, 2]
    lesson = recorded(tree)["a"]
    assert {number: run["error"] for number, run in lesson["runs"].items()} == {
        "1": None,
        "2": None,
    }
    assert lesson["claims"].keys() == {"Odd is better", "The same"}  # the second is no last line
    odd = lesson["claims"]["Odd is better"]
    digest = now(tree, 1)
    about = {"unit": "points", "relation": "greater by", "margin": 0.5, "hash": digest}
    assert odd["about"] == about
    assert odd["sets"]["1"] == {"effect": 1.1, "half_width": 0.28, "holds": True}
    assert odd["sets"]["2"] == {"effect": -1.1, "half_width": 0.28, "holds": False}
    assert lesson["claims"]["The same"]["sets"]["2"]["holds"] is True
    assert capsys.readouterr().out.strip() == "a: 1 of 2: Odd is better"
    # sorted, one line for each claim and set
    text = (tree / "book/replication.json").read_text(encoding="utf-8")
    assert sum('"half_width"' in line for line in text.splitlines()) == 4
    assert '    "unit": "ρ"' not in text and '"unit": "ρ"}' in text


def test_only_what_is_missing_runs(tree):
    for sets, expected in (("1", [1]), ("3", [2, 3]), ("3", [])):
        assert replicate.main(["--sets", sets, "--jobs", "1"], tree) == 0
        assert runs(tree) == expected
    write_notebook(tree, "a", EXPERIMENT + "x = 1\n", CLAIM)
    assert replicate.main(["--sets", "1"], tree) == 0
    assert runs(tree) == [1]
    # the sets of the old code are gone, and so is the sentence that the lesson no longer holds
    assert {s: list(c["sets"]) for s, c in recorded(tree)["a"]["claims"].items()} == {
        "Odd is better": ["1"]
    }


def test_another_sentence_of_an_earlier_claim_is_missing(tree):
    write_notebook(tree, "a", EXPERIMENT, CLAIM, SAME)
    assert replicate.main(["--sets", "1"], tree) == 0
    write_notebook(tree, "a", EXPERIMENT, CLAIM.replace("Odd is", "Odd sets are"), SAME)
    assert replicate.missing(tree, ["notebooks/a.ipynb"], 1) == [("notebooks/a.ipynb", 1)]


def test_another_error_ends_the_run_and_is_noted(tree, capsys):
    stop = "if shift == 2:\n    assert low == high\nif shift == 3:\n    int('many' * 99)\n"
    write_notebook(tree, "a", EXPERIMENT, CLAIM, stop, SAME)
    assert replicate.main(["--sets", "3", "--jobs", "1"], tree) == 0
    lesson = recorded(tree)["a"]
    errors = [lesson["runs"][number]["error"] for number in "123"]
    assert errors[:2] == [None, "cell 3: AssertionError: assert low == high"]
    assert errors[2].startswith("cell 3: ValueError: invalid literal") and len(errors[2]) == 200
    assert list(lesson["claims"]["Odd is better"]["sets"]) == ["1", "2", "3"]
    assert list(lesson["claims"]["The same"]["sets"]) == ["1"]
    said = capsys.readouterr().out
    assert "a, set 2 stopped: cell 3: AssertionError" in said
    runs(tree)
    assert replicate.main(["--sets", "3"], tree) == 0
    assert runs(tree) == []  # it would stop again


def test_what_the_machine_broke_is_tried_again(tree, capsys):
    killed = "import signal\nif not os.path.exists('../alive'):\n    os.kill(os.getpid(), 9)\n"
    write_notebook(tree, "a", EXPERIMENT, CLAIM, killed)
    assert replicate.main(["--sets", "1"], tree) == 1
    assert "a, set 1 could not be run: cell 3: DeadKernelError" in capsys.readouterr().err
    assert not (tree / "book/replication.json").exists()
    (tree / "alive").touch()
    assert replicate.main(["--sets", "1"], tree) == 0
    assert recorded(tree)["a"]["runs"]["1"]["error"] is None


def test_ctrl_c_keeps_what_is_done_and_the_next_call_goes_on(tree):
    os.mkfifo(tree / "pipe")
    tell = "if shift == 2 and not os.path.exists('../free'):\n"
    tell += "    print(os.getpid(), file=open('../pipe', 'w'), flush=True)\n    while True: pass\n"
    write_notebook(tree, "a", EXPERIMENT, CLAIM, tell)
    call = f"import sys; sys.path.insert(0, {str(ROOT / 'book')!r}); import replicate, pathlib\n"
    call += "try:\n    replicate.main(['--sets', '3', '--jobs', '1'], pathlib.Path.cwd())\n"
    call += "    open('pipe', 'w').close()  # who waits for the second set waits no longer\n"
    call += "except KeyboardInterrupt: sys.exit(130)"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([sys.executable, "-c", call], cwd=tree)
    signal.signal(signal.SIGINT, before)
    with open(tree / "pipe") as pipe:  # waits until the second set runs
        kernel = psutil.Process(int(pipe.readline()))
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    assert list(recorded(tree)["a"]["runs"]) == ["1"]
    assert not (tree / "book/replication.part").exists()
    assert runs(tree) == [1, 2]
    (tree / "free").touch()
    assert replicate.main(["--sets", "3"], tree) == 0
    assert runs(tree) == [2, 3]
    assert list(recorded(tree)["a"]["runs"]) == ["1", "2", "3"]


def test_the_command_line_is_checked(tree, capsys):
    for bad in (["--sets", "0"], ["--jobs", "0"], ["--sets", "2001"], ["--lessons", "b"]):
        with pytest.raises(SystemExit):
            replicate.main(bad, tree)
    assert "b" in capsys.readouterr().err
    assert runs(tree) == []


def cells(*sources):
    return [nbformat.v4.new_code_cell(source) for source in sources]


def test_a_hash_is_of_the_cell_and_of_what_it_may_depend_on():
    sources = ["x = 1", "predict('?')", "plots.show(x)\nprint(x)", "fit(x)", "claims.equal(x)", "x"]
    plain = replication.hashes(cells(*sources))

    def changed(position, source):
        edited = [*sources[:position], source, *sources[position + 1 :]]
        return [a != b for a, b in zip(plain, replication.hashes(cells(*edited)), strict=True)]

    for position, source in ((0, "x = 2"), (3, "fit(y)"), (1, "y = predict('?')"), (1, "%magic")):
        assert changed(position, source) == [i >= position for i in range(6)]
    for position, source in ((1, "predict('!')"), (2, "plots.show(y)"), (4, "claims.equal(y)")):
        assert changed(position, source) == [i == position for i in range(6)]
    same = (
        (0, "import os\nx = 1  # one"),
        (3, "fit(\n x)"),
        (4, "claims.equal(x, mark='usually')"),
    )
    for position, source in same:
        assert not any(changed(position, source))


def test_what_stands_below_the_last_claim_asks_for_no_new_run(tree):
    write_notebook(tree, "a", EXPERIMENT, CLAIM, "x = 1")
    assert replicate.main(["--sets", "1"], tree) == 0
    write_notebook(tree, "a", EXPERIMENT, CLAIM, "x = torch.equal(low, high)")
    assert replicate.missing(tree, ["notebooks/a.ipynb"], 1) == []
    write_notebook(tree, "a", EXPERIMENT, CLAIM, "x = 2", SAME)
    assert replicate.missing(tree, ["notebooks/a.ipynb"], 1) == [("notebooks/a.ipynb", 1)]


def test_a_sentence_is_claimed_once():
    def claiming(*values):
        code = cells(*(f"x = {v}" for v in values))
        for cell, value in zip(code, values):
            claim = {replication.CLAIM: {"statement": "A", "mean": value}}
            cell.outputs = 2 * [nbformat.v4.new_output("display_data", claim)]
        return replication.claims(code)

    assert [claim["mean"] for _, claim in claiming(1.0)] == [1.0]
    with pytest.raises(ValueError, match="claims twice: 'A'"):
        claiming(1.0, 2.0)


def test_the_words_of_the_page():
    about = {"hash": "new"}
    sets = {str(n): {"holds": n != 3} for n in range(1, 11)}
    file = {"a": {"claims": {"A": {"about": about, "sets": sets}}}}
    assert replication.rate(file, "a", "A", "new") == "9 of 10"
    assert replication.rate(file, "a", "A", "old") == "not replicated since it changed"
    for known in ((file, "a", "B"), (file, "b", "A"), ({}, "a", "A")):
        assert replication.rate(*known, "new") == "not replicated yet"


def test_the_page_and_the_file_agree(tree):
    """The book of three lessons: never replicated, replicated, and changed afterwards."""
    for part in ("book/_ext", "book/_static"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("book/build.py", "book/kernels.py", "_config.yml"):
        shutil.copy(ROOT / file, tree / file)
    (tree / "book/claims.md").write_text("# Claims\n\n```{claims-table}\n```\n")
    for file in ("pyproject.toml", "requirements.txt"):
        shutil.copy(ROOT / file, tree / file)
    toc = {"format": "jb-book", "root": "book/intro"}
    toc["chapters"] = [{"file": f"notebooks/{name}"} for name in "abc"] + [{"file": "book/claims"}]
    (tree / "book/_toc.yml").write_text(json.dumps(toc))
    (tree / "book/intro.md").write_text("# A small book\n\nHello.\n")
    (tree / "book/references.bib").touch()

    for name in "abc":
        marked = CLAIM.replace("by=0.5", "by=0.5, mark='exploratory'")
        write_notebook(tree, name, EXPERIMENT, marked)
    before = build.digest(tree, build.PAGES)
    assert replicate.main(["--sets", "3", "--lessons", "b"], tree) == 0
    replicate.write(tree, recorded(tree) | {"c": recorded(tree)["b"]})  # they are the same so far
    assert build.digest(tree, build.PAGES) != before  # so the pages are made again
    write_notebook(tree, "c", EXPERIMENT + "x = 1\n", CLAIM)
    odd = ["Odd is better (exploratory)", "+1.10 ± 0.28 points", "greater by 0.5 points", "5"]
    assert table(tree) == [
        [*odd, "not replicated yet"],
        [*odd, "2 of 3"],
        ["Odd is better", *odd[1:], "not replicated since it changed"],
    ]


def table(tree):
    """The first five columns of the table on the built page of claims."""
    done = subprocess.run(
        [sys.executable, "book/build.py"], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page = (tree / "book/_build/html/book/claims.html").read_text(encoding="utf-8")
    found = []
    for row in BeautifulSoup(page, "html.parser").select("tbody tr"):
        texts = [cell.get_text().strip().replace("\N{NO-BREAK SPACE}", " ") for cell in row("td")]
        found.append(texts[:5])
    return found
