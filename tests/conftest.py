"""Shared fixtures, and the rules by which tests are skipped.

Tests that need a GPU (`pytest -m gpu`) are skipped where there is none; tests marked `once` are skipped with
FASTSAM_NATIVE=0. What tests draw at random depends on `--seed` and their names alone, so that a failure can be repeated
on its own.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from annotate_kills import make_images, tiny_sam
from fastsam_core import SAM
from fastsam_core._log import warn_once
from fastsam_core.models.sam_model import SamModel
from fastsam_core.ops import _native_cuda
from fastsam_core.predictor import Predictor
from predictor_examples import predictor_with_image, read_only_image
from siblings import ON_GPU, why_no_gpu
from small_model import small_model


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed", type=int, default=0, help="of what tests draw at random; not 0: new examples of Hypothesis"
    )


def pytest_configure(config: pytest.Config) -> None:
    # No time limit per example: a busy machine must not fail tests.
    settings.register_profile("fastsam", deadline=None, derandomize=config.getoption("seed") == 0)
    settings.load_profile("fastsam")


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('seed')}"


def _seed(config: pytest.Config, name: str) -> None:
    seed = zlib.crc32(f"{name} {config.getoption('seed')}".encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    _seed(request.config, f"{fixturedef.baseid}::{fixturedef.argname}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    _seed(item.config, item.nodeid)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_gpu()
    siblings_alone = os.environ.get("FASTSAM_NATIVE") == "0"
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if any(isinstance(value, str) and value == ON_GPU for value in parameters.values()):
            item.add_marker(pytest.mark.gpu)
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
        if siblings_alone and (once := item.get_closest_marker("once")):
            item.add_marker(pytest.mark.skip(reason=f"shown by the run with compiled operations: {once.args[0]}"))


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    """Clear the record of messages logged once, and restore PyTorch's number of threads afterwards.

    Tests also use kernels that have not been validated on a GPU yet.
    """
    warn_once.cache_clear()
    threads, served = torch.get_num_threads(), _native_cuda.use_unvalidated
    _native_cuda.use_unvalidated = True
    yield
    _native_cuda.use_unvalidated = served
    torch.set_num_threads(threads)


# For the tests of the predictor and of everything built on it.
@pytest.fixture(scope="module")
def model() -> SamModel:
    return small_model()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return read_only_image()


@pytest.fixture
def predictor(model: SamModel) -> Predictor:
    return predictor_with_image(model)


# For the tests of annotation runs.
@pytest.fixture(scope="module")
def sam() -> SAM:
    return tiny_sam()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images in three folders."""
    make_images(tmp_path / "images", 12)
    return tmp_path / "images"
