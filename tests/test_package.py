"""The package as pip installs it: it has its files, and the methods need torch, numpy and tqdm alone."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import nbformat
import portable
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"ipython": "IPython", "pillow": "PIL", "scikit-learn": "sklearn"}  # as they are imported
CORE = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    sys.modules[name] = None  # its import fails, as if it were not installed
import course_lib
for module in pkgutil.walk_packages(course_lib.__path__, "course_lib."):
    if not module.name.startswith("course_lib.teaching"):
        importlib.import_module(module.name)
from course_lib import data
for load in (lambda: data.load("glyphs"), lambda: importlib.import_module("course_lib.teaching")):
    try:
        load()
    except ImportError as error:
        print(error)
print(course_lib.__file__)
"""


def extra() -> list[str]:
    """The packages of the extra `lessons`, as they are imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [need.partition(">")[0] for need in project["optional-dependencies"]["lessons"]]
    return [NAMES.get(name, name) for name in needed]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy, because a build leaves its own files."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("course_lib", "book/reproductions"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", "dist", "."], cwd=source, check=True)
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel) -> Path:
    """A folder with the wheel's content, apart from the checkout."""
    folder = wheel.parent / "site"
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def python(installed: Path, *arguments: str) -> str:
    """What a program prints that has the installed package first on its path."""
    command = [sys.executable, *arguments]
    env = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        command, cwd=installed, env=env, check=True, capture_output=True, text=True
    ).stdout


def test_the_wheel_holds_every_file_of_the_package_and_the_recorded_runs(installed):
    kept = {".py", ".js", ".css", ".html", ".npz"}
    own = {p.relative_to(ROOT) for p in (ROOT / "course_lib").rglob("*") if p.suffix in kept}
    own |= {Path("course_lib/py.typed")}
    runs = {path.name for path in (ROOT / "book/reproductions").glob("*.json")}
    own |= {Path("course_lib/teaching/runs") / name for name in runs}
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    assert {path for path in found if path.parts[0] == "course_lib"} == own


def test_the_methods_need_no_package_of_the_extra(installed):
    glyphs, teaching, where = python(installed, "-c", CORE, *extra()).splitlines()
    assert glyphs.endswith('pip install "course_lib[lessons]"')
    assert teaching.endswith('pip install "course_lib[lessons]"')
    assert Path(where).is_relative_to(installed)


def test_recorded_runs_need_no_checkout(installed):
    program = "from course_lib import teaching; print(teaching.recorded('sparse_training').data)"
    assert "| recorded run, % test accuracy | paper |" in python(installed, "-c", program)


def test_a_downloaded_lesson_runs_beside_the_installed_package(installed, tmp_path, monkeypatch):
    """Up to its first training, in a folder that holds nothing else."""
    source = nbformat.read(ROOT / "notebooks/motivation.ipynb", as_version=4)
    lesson = portable.alone(source, ROOT, "")
    trains = next(i for i, cell in enumerate(lesson.cells) if "experiments.run(" in cell.source)
    where = nbformat.v4.new_code_cell("import course_lib; print(course_lib.__file__)")
    lesson.cells = [where, *lesson.cells[:trains]]
    place = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(lesson, timeout=300, kernel_name="python3", resources=place)
    client.execute(env=os.environ | {"PYTHONPATH": str(installed)})
    assert Path(where.outputs[0].text.strip()).is_relative_to(installed)
    made = [out.data for cell in lesson.cells for out in cell.get("outputs", []) if "data" in out]
    widgets = [data["text/html"] for data in made if 'data-course="' in data.get("text/html", "")]
    assert any('data-course="scrub"' in widget for widget in widgets)
    assert all("<script data-course-page>" in widget for widget in widgets)
