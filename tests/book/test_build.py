"""The builder, on a miniature of the repository: what it executes again, what it reports, resumes."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import build
import nbformat
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each run of a notebook leaves a line: its name, what it imported, where it ran, in which python.
NOTE = """\
import os, sys
import course_lib
with open("../runs.txt", "a") as notes:
    print("{name}", course_lib.VALUE, os.path.basename(os.getcwd()), sys.executable, file=notes)
"""
SECOND = """\
print("the second cell of {name}")
"""


def write_notebook(root: Path, name: str, *cells: str, **metadata) -> None:
    """Write a lesson: a title, then the code cells. Its kernel exists on no machine."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata = {
        "kernelspec": {"name": "no-such-kernel", "display_name": "?", "language": "python"},
        "course": {"minutes": 50, "needs": []},
        **metadata,
    }
    notebook.cells = [nbformat.v4.new_markdown_cell(f"# Lesson {name}")]
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(notebook, root / f"notebooks/{name}.ipynb")


@pytest.fixture
def tree(tmp_path) -> Path:
    """Return a repository with the real builder, a library of one line and two lessons."""
    for folder in ("book/_ext", "book/_static", "notebooks", "course_lib", "img"):
        (tmp_path / folder).mkdir(parents=True)
    for part in ("book/_ext", "book/_static"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / part, tmp_path / part, dirs_exist_ok=True, ignore=ignore)
    for file in ("book/build.py", "book/kernels.py", "_config.yml", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    toc = {"format": "jb-book", "root": "book/intro"}
    toc["chapters"] = [{"file": "notebooks/a"}, {"file": "notebooks/b"}]
    (tmp_path / "book/_toc.yml").write_text(json.dumps(toc))
    (tmp_path / "book/intro.md").write_text("# A small book\n\nHello.\n")
    (tmp_path / "book/references.bib").touch()
    (tmp_path / "requirements.txt").write_text("nothing==1.0\n")
    (tmp_path / "course_lib/__init__.py").write_text("VALUE = 1\n")
    for name in "ab":
        write_notebook(tmp_path, name, NOTE.format(name=name), SECOND.format(name=name))
    return tmp_path


def runs(tree: Path) -> list[str]:
    """Return which notebooks ran since the last look, with the library's value they saw."""
    notes = tree / "runs.txt"
    lines = notes.read_text().splitlines() if notes.exists() else []
    notes.unlink(missing_ok=True)
    assert all(line.endswith(f"notebooks {sys.executable}") for line in lines)
    return sorted(" ".join(line.split()[:2]) for line in lines)


def execute(tree: Path) -> dict[str, str]:
    return build.execute(tree, build.toc_notebooks(tree), timeout=60)


def make(tree: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "book/build.py"]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)


def test_reads_the_table_of_contents_in_order(tree):
    toc = {"root": "book/intro", "parts": [{"chapters": [{"file": "notebooks/b.ipynb"}]}]}
    toc["parts"].append({"chapters": [{"file": "notebooks/a", "sections": [{"file": "book/x"}]}]})
    (tree / "book/_toc.yml").write_text(json.dumps(toc))
    assert build.toc_notebooks(tree) == ["notebooks/b.ipynb", "notebooks/a.ipynb"]


def test_executes_once_and_again_only_what_changed(tree):
    assert execute(tree) == {}
    assert runs(tree) == ["a 1", "b 1"]
    assert execute(tree) == {}
    assert runs(tree) == []
    write_notebook(tree, "b", NOTE.format(name="b"), "1 + 1")
    assert execute(tree) == {}
    assert runs(tree) == ["b 1"]


def test_notes_the_seconds_of_each_cell(tree):
    measured = "import time\nstart = time.perf_counter()\nsum(range(10**6))\n"
    measured += "print(time.perf_counter() - start, file=open('../took.txt', 'w'))\n"
    write_notebook(tree, "b", "1", "", measured)  # nothing is counted for the empty cell
    assert execute(tree) == {}
    timing = json.loads((tree / "book/_build/timing.json").read_text())
    assert list(timing) == ["notebooks/a.ipynb", "notebooks/b.ipynb"]
    seconds = timing["notebooks/b.ipynb"]
    assert len(seconds["cells"]) == 2
    assert seconds["cells"][1] + 0.001 >= float((tree / "took.txt").read_text())
    assert seconds["seconds"] == pytest.approx(sum(seconds["cells"]), abs=0.01)


@pytest.mark.parametrize(
    "edited",
    [
        "course_lib/deep/new.py",
        "requirements.txt",
        "pyproject.toml",
        "img/figure.py",
        "book/reproductions/new.json",
    ],
)
def test_the_cache_goes_when_something_that_notebooks_depend_on_changes(tree, edited):
    stamp = build.open_cache(tree).path / "executed-with"
    kept = stamp.with_name("a-cached-notebook")
    kept.touch()
    build.open_cache(tree)
    assert kept.exists()
    (tree / edited).parent.mkdir(parents=True, exist_ok=True)
    (tree / edited).write_text("# edited\n")
    build.open_cache(tree)
    assert not kept.exists()


def test_caches_and_hidden_files_change_nothing(tree):
    before = build.digest(tree, build.EXECUTED + build.PAGES)
    for name in ("course_lib/__pycache__/x.pyc", "book/_build/html/a", "notebooks/.cache/a.ipynb"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    assert build.digest(tree, build.EXECUTED + build.PAGES) == before


def test_the_pages_follow_their_texts(tree):
    before = build.digest(tree, build.EXECUTED + build.PAGES)
    (tree / "book/new.md").touch()
    assert build.digest(tree, build.EXECUTED + build.PAGES) != before


def test_a_cell_tagged_alone_waits_until_it_is_and_lets_no_other_start():
    from kernels import Room

    async def cells():
        room, order = Room(bar=None), []

        async def cell(name, alone, done):
            await room.enter(alone)
            order.append(name)
            await done.wait()
            await room.leave(alone)

        ends = {name: asyncio.Event() for name in ("a", "b", "timed", "c")}
        for name, done in ends.items():  # in this order
            asyncio.ensure_future(cell(name, name == "timed", done))
            await settle()
        seen = [list(order)]
        for name in ("a", "b", "timed"):
            ends[name].set()
            await settle()
            seen.append(list(order))
        return seen

    async def settle():
        for _ in range(20):
            await asyncio.sleep(0)

    both, all_but_c = ["a", "b"], ["a", "b", "timed"]
    with ThreadPoolExecutor(1) as thread:  # this one may have a browser's loop
        seen = thread.submit(asyncio.run, cells()).result()
    assert seen == [both, both, all_but_c, [*all_but_c, "c"]]


def test_timed_cells_run_alone_also_after_one_that_was_stopped(tree):
    write_notebook(tree, "a", "while True: pass")
    write_notebook(tree, "b", "import os; assert os.environ['COURSE_ALONE']", "x = 1")
    for name, number in (("a", 1), ("b", 2)):
        path = tree / f"notebooks/{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[number].metadata.tags = ["alone"]
        nbformat.write(notebook, path)
    errors = build.execute(tree, build.toc_notebooks(tree), timeout=2)
    assert list(errors) == ["notebooks/a.ipynb"]


def test_an_endless_cell_is_reported_with_its_number(tree):
    endless = "while True:\n    pass\n"
    write_notebook(tree, "b", "1", endless, mystnb={"execution_timeout": 1})
    errors = execute(tree)
    assert list(errors) == ["notebooks/b.ipynb"]
    assert errors["notebooks/b.ipynb"].startswith("cell 2: CellTimeoutError")


def test_a_broken_notebook_fails_every_time_and_hurts_no_other(tree):
    write_notebook(tree, "a", "1", "def f():\n    return nothing_of_this_name\nf()", "2")
    for expected in (["b 1"], []):
        made = make(tree)
        assert made.returncode == 1
        assert "notebooks/a.ipynb, cell 2: NameError: name 'nothing_of_this" in made.stderr
        assert "return nothing_of_this_name" in made.stderr  # the end of the traceback
        assert runs(tree) == expected
        assert not (tree / "book/_build/html/index.html").exists()


def test_whole_build(tree):
    made = make(tree)
    assert made.returncode == 0, made.stderr
    assert "Open book/_build/html/index.html" in made.stdout
    assert "notebooks/a.ipynb: 0." in made.stderr  # its seconds
    assert runs(tree) == ["a 1", "b 1"]  # Jupyter Book took them from the cache
    page = (tree / "book/_build/html/notebooks/a.html").read_text()
    assert "the second cell of a" in page
    assert "50 minutes in class" in page

    made = make(tree)
    assert (made.returncode, runs(tree)) == (0, [])
    assert "Nothing changed" in made.stdout

    (tree / "course_lib/__init__.py").write_text("VALUE = 2\n")
    toc = (tree / "book/_toc.yml").read_text()
    (tree / "book/_toc.yml").write_text(toc.replace('{"file": "notebooks/b"}', '{"file": "gone"}'))
    made = make(tree)
    assert (made.returncode, runs(tree)) == (1, ["a 2"])
    assert "gone" in made.stderr  # a warning of Sphinx is an error
    assert not (tree / "book/_build/.built-from").exists()  # so the next call tries again
    # The pages were made all the same, and that of a lesson that was taken out is no longer there.
    assert (tree / "book/_build/html/notebooks/a.html").exists()
    assert not (tree / "book/_build/html/notebooks/b.html").exists()


@pytest.fixture
def one_core():
    """Leave this process, and those that it starts, a single core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C reach what this process starts, also where a background shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux to claim one core")
def test_ctrl_c_ends_the_kernel_and_keeps_what_is_done(tree, one_core, ctrl_c):
    os.mkfifo(tree / "pipe")
    tell = "import os\nwith open('../pipe', 'w') as pipe:\n    print(os.getpid(), file=pipe)\n"
    write_notebook(tree, "b", tell + "while True:\n    pass\n")  # on one core, b starts after a
    command = [sys.executable, "book/build.py"]
    process = subprocess.Popen(command, cwd=tree, stderr=subprocess.PIPE, text=True)
    with open(tree / "pipe") as pipe:  # waits until b runs
        kernel = psutil.Process(int(pipe.read()))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)  # far below the time limit of the endless cell
    assert process.returncode == 130, said
    assert "run it again to go on" in said
    assert "Traceback" not in said
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    assert runs(tree) == ["a 1"]
    write_notebook(tree, "b", "1")
    assert execute(tree) == {}
    assert runs(tree) == []


def test_every_module_has_its_page():
    """A module of the library is documented on a page of its own; what a lesson asks is content."""
    root = ROOT
    modules = {
        path.relative_to(root)
        .with_suffix("")
        .as_posix()
        .removesuffix("/__init__")
        .replace("/", ".")
        for path in (root / "course_lib").rglob("*.py")
    }
    packages = {
        f"course_lib{name}" for name in ("", ".pruning", ".compression", ".search", ".exercises")
    }
    lessons = {
        f"course_lib.exercises.{path.stem.removeprefix('pruning-').replace('-', '_')}"
        for path in (root / "notebooks").glob("*.ipynb")
    }
    # three functions of the same names; a table
    named_alike = {
        f"course_lib.teaching.{name}" for name in ("beside", "bill", "recorded", "sizes")
    }
    pages = "".join(p.read_text("utf-8") for p in (root / "book/api").glob("*.md"))
    shown = set(re.findall(r"automodule:: (\S+)", pages))
    assert shown == modules - packages - lessons - named_alike
