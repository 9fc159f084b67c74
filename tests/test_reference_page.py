"""Tests of docs/reference.md, which docs/reference.py writes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import fastsam_core
from fastsam_core import ops

SCRIPT = Path(__file__).parents[1] / "docs" / "reference.py"


@pytest.fixture(scope="module")
def page() -> str:
    return runpy.run_path(str(SCRIPT))["page"]()


def test_page_is_up_to_date(page: str) -> None:
    assert SCRIPT.with_name("reference.md").read_text(encoding="utf-8") == page, "run `make reference`"


def test_page_describes_every_public_name(page: str) -> None:
    undescribed = {"ASSETS", "__version__", "checks"}
    for name in set(fastsam_core.__all__) - undescribed | set(ops.__all__):
        assert f"`{name}(" in page or f"## fastsam_core.{name}\n" in page, name


def test_every_row_has_a_summary_and_as_many_cells_as_its_head(page: str) -> None:
    widths = []
    for line in page.splitlines():
        if line.startswith("| "):
            cells = line.replace("\\|", "").strip("| ").split(" | ")
            assert all(cells), line
            widths = [*widths, len(cells)] if widths else [len(cells)]
            assert len(set(widths)) == 1, line
        else:
            widths = []
