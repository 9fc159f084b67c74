"""Tests that need a GPU: `pytest -m gpu` runs them, and without a GPU they are skipped with the reason."""

from __future__ import annotations

import pytest
from hypothesis import settings

from siblings import ON_GPU, why_no_gpu

# A busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_gpu()
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if any(isinstance(value, str) and value == ON_GPU for value in parameters.values()):
            item.add_marker(pytest.mark.gpu)
        if reason and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))
