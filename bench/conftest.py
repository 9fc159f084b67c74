"""Command-line options of the benchmarks, and the fixture `rows` that collects the comparisons with peers."""

from __future__ import annotations

import json

import pytest
import torch

from fastsam_core._files import write_text

from .summarise import LATEST_ROWS
from .timing import RowCollector

_ROWS = pytest.StashKey[RowCollector]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastsam_core benchmarks")
    group.addoption("--quick", action="store_true", help="two rounds of everything")
    group.addoption("--full", action="store_true", help="time all of a peer's batches instead of a sample")
    group.addoption("--bench-threads", type=int, default=2, help="threads of each side (default 2)")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(config.getoption("--bench-threads"))
    config.stash[_ROWS] = RowCollector(config.getoption("--quick"), config.getoption("--full"))


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> RowCollector:
    return request.config.stash[_ROWS]


def pytest_sessionfinish(session: pytest.Session) -> None:
    LATEST_ROWS.parent.mkdir(exist_ok=True)
    write_text(LATEST_ROWS, json.dumps(session.config.stash[_ROWS].as_dict(), indent=1) + "\n")
