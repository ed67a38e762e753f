"""nbgrader itself accepts the assignments, and shows the scores that our grader gave.

nbgrader brings a part of JupyterLab, so it has an environment of its own: ``COURSE_NBGRADER`` names
it. Under CI it is made here if it is not named.
"""

import csv
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from course_lib.grading import editions, export
from course_lib.grading.batch import Unusable

ROOT = Path(__file__).resolve().parents[2]
RIGHT = {"public": True, "hidden": True}
WRONG = {"public": True, "hidden": False}
# Whatever this machine prefers, what one command compiles the next one finds.
COMMON = {"JUPYTER_PLATFORM_DIRS": "1", "PYTHONDONTWRITEBYTECODE": ""}


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Yield the folder of an environment's programs that has nbgrader 0.9.6."""
    folder = os.environ.get("COURSE_NBGRADER")
    if not folder and not os.environ.get("CI"):
        pytest.skip("set COURSE_NBGRADER to an environment with nbgrader 0.9.6; CI makes one")
    if not folder:
        folder = tmp_path_factory.mktemp("nbgrader") / "venv"
        # Our own pip installs into it, and leaves it to each command to compile what it imports:
        # a small part of all that nbgrader brings.
        venv.create(folder)
        pip = [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install"]
        subprocess.run([*pip, "--quiet", "--no-compile", "nbgrader==0.9.6"], check=True)
    return Path(folder) / "bin"


def nbgrader(programs, course, *words):
    """What a command of nbgrader says; its kernels find the course's library."""
    (site,) = {path for path in sys.path if path.endswith("site-packages")} or {""}
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{site}"}
    only = path if words[0] == "validate" else {"PATH": path["PATH"]}
    done = subprocess.run(
        [programs / "nbgrader", *words],
        cwd=course,
        env=os.environ | COMMON | only,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def course(programs, tmp_path_factory):
    """Yield a course in which two students have handed in, and nbgrader has noted it."""
    course = tmp_path_factory.mktemp("course")
    cells = editions.lesson("motivation")
    editions.write(cells, "motivation", course)
    for student, edition in (("ada", "solutions"), ("bob", "release")):
        made = editions.notebook(cells, "motivation", edition)
        editions.save(made, course / "submitted" / student / "motivation" / "motivation.ipynb")
    ours = course / "release/motivation/motivation.ipynb"
    ours.rename(course / "ours.ipynb")
    nbgrader(programs, course, "generate_assignment", "motivation", "--force")
    nbgrader(programs, course, "autograde", "motivation", "--no-execute")
    return course


def sources(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells]


def test_nbgraders_own_release_is_ours(course):
    theirs = sources(course / "release/motivation/motivation.ipynb")
    assert theirs == sources(course / "ours.ipynb")


def test_validate_accepts_the_solutions_and_names_what_is_empty(programs, course):
    assert "Success!" in nbgrader(programs, course, "validate", "solutions/motivation.ipynb")
    said = nbgrader(programs, course, "validate", "ours.ipynb")
    assert "VALIDATION FAILED ON 3 CELL(S)" in said
    assert "joules: nothing to check yet" in said


def test_our_scores_are_in_the_gradebook_its_table_and_its_feedback(programs, course):
    names = ("joules", "smallest_file", "mended_file_bytes")
    about = {"assignment": "motivation", "why": "", "status": "graded"}
    parts = {"ada": dict.fromkeys(names, RIGHT), "bob": dict.fromkeys(names, WRONG)}
    parts["bob"] |= {"joules": RIGHT}
    found = [about | {"student": student, "exercises": part} for student, part in parts.items()]
    found.append(about | {"student": "eve", "exercises": parts["ada"]})
    found.append(about | {"student": "kim", "exercises": {}, "status": "missing", "why": "None."})
    script = (
        "import json, pathlib, sys; sys.path.append(sys.argv[1])\n"
        "from course_lib.grading import export\n"
        "left = export.write(json.loads(sys.argv[2]), 'nbgrader', pathlib.Path(), None)\n"
        "print(json.dumps(left))"
    )
    (site,) = programs.parent.glob("lib/python*/site-packages")
    command = [sys.executable, "-c", script, site, json.dumps(found)]
    environment = os.environ | COMMON | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=course, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        "'eve': nbgrader's gradebook has no check of joules, smallest_file, mended_file_bytes",
        "'kim' has no score: missing. 'None.'",
    ]
    nbgrader(programs, course, "export")
    with open(course / "grades.csv", newline="") as file:
        scores = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert scores == {"ada": 3.0, "bob": 1.0}
    nbgrader(programs, course, "generate_feedback", "motivation")
    page = (course / "feedback/bob/motivation/motivation.html").read_text("utf-8")
    assert "Score: 1.0 / 3.0" in page
    assert page.count("Right on the inputs of check, and wrong on others") == 2
    assert page.count("Solved: every property holds") == 1
    assert formgrader(programs, course) == {"ada": [3.0, False, False], "bob": [1.0, False, True]}


FORMGRADER = """
import json
from nbgrader.apps.api import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
book = NbGraderAPI(CourseDirectory(root=".")).get_notebook_submissions("motivation", "motivation")
about = ("score", "needs_manual_grade", "failed_tests")
print(json.dumps({row["student"]: [row[key] for key in about] for row in book}))
"""


def formgrader(programs, course):
    """What the table of submissions shows in formgrader, which asks its own API for it."""
    done = subprocess.run(
        [programs / "python", "-c", FORMGRADER],
        cwd=course,
        env=os.environ | COMMON | {"PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_without_nbgrader_or_a_gradebook_the_export_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nbgrader.api", None)
    with pytest.raises(Unusable, match="needs nbgrader: pip install"):
        export.write([], "nbgrader", tmp_path, None)


def test_a_missing_gradebook_is_named(monkeypatch, tmp_path):
    class Api:
        Gradebook = MissingEntry = object

    monkeypatch.setitem(sys.modules, "nbgrader", Api)
    monkeypatch.setitem(sys.modules, "nbgrader.api", Api)
    with pytest.raises(Unusable, match="There is no gradebook .*gradebook.db"):
        export.write([], "nbgrader", tmp_path, None)
