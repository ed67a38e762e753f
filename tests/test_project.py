"""The public files of the project agree with each other, and nothing in them needs an address."""

import re
import tomllib
from pathlib import Path

import build
import nbformat
import yaml

import course_lib

ROOT = Path(__file__).resolve().parent.parent


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def lessons() -> list[str]:
    return build.toc_notebooks(ROOT)


def test_one_version_everywhere():
    version = tomllib.loads(text("pyproject.toml"))["project"]["version"]
    citation = yaml.safe_load(text("CITATION.cff"))
    newest = re.search(r"^## (\S+), (\S+)$", text("CHANGELOG.md"), re.MULTILINE)
    assert course_lib.__version__ == citation["version"] == newest[1] == version
    assert str(citation["date-released"]) == newest[2]


def test_the_citation_file_holds_what_the_format_requires():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == "MIT" and text("LICENSE").startswith("MIT License")


def test_the_readme_lists_the_lessons_in_reading_order():
    listed = re.findall(r"^\d+\. \[(.+?)\]\((notebooks/\S+)\)", text("README.md"), re.MULTILINE)
    titles = [nbformat.read(ROOT / name, 4).cells[0].source.split("\n")[0] for name in lessons()]
    assert [(f"# {title}", name) for title, name in listed] == list(zip(titles, lessons()))


def test_hooks_need_no_address():
    for repository in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["language"] == "system" and hook["entry"].startswith(".venv/bin/")


def test_workflows_call_the_gate_and_publish_what_it_built():
    test = yaml.safe_load(text(".github/workflows/test.yml"))
    steps = test["jobs"]["test"]["steps"]
    assert any(".ci/run" in step.get("run", "") for step in steps)
    built = next(step["with"] for step in steps if "upload-artifact" in step.get("uses", ""))
    publish = yaml.safe_load(text(".github/workflows/publish.yml"))
    fetched = next(s for s in publish["jobs"]["publish"]["steps"] if "download" in s["uses"])
    assert fetched["with"]["name"] == built["name"] and built["path"] == "book/_build/html"
    trigger = publish[True]["workflow_run"]  # YAML reads "on" as true
    assert trigger["workflows"] == [test["name"]]


def test_templates_are_valid_forms():
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[!c]*.yml"))  # config.yml is no form
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert form["name"] and form["description"]
        ids = [field["id"] for field in form["body"]]
        assert len(set(ids)) == len(ids) and all("label" in f["attributes"] for f in form["body"])
