"""The table of sizes: every entry is cited, and its words say its number."""

import re
from pathlib import Path

import pytest

from course_lib.teaching.sizes import SIZES

BIBLIOGRAPHY = Path(__file__).resolve().parents[2] / "book/references.bib"


def test_every_size_is_cited():
    keys = set(re.findall(r"^@\w+\{([^,]+),", BIBLIOGRAPHY.read_text("utf-8"), re.MULTILINE))
    assert {size.cite for size in SIZES} <= keys
    assert [size.year for size in SIZES] == sorted(size.year for size in SIZES)


def test_the_sources_words_hold_the_number():
    units = {"million": 1e6, "M": 1e6, "billion": 1e9, "B": 1e9, "": 1}
    for size in SIZES:
        number, unit = re.search(r"([\d.,]+\d)[ -]?(million|billion|M\b|B\b)?", size.says).groups()
        unit = "million" if "in millions" in size.says else unit or ""
        assert float(number.replace(",", "")) * units[unit] == pytest.approx(size.parameters), size
