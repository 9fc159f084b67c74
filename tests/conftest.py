"""What is left out, with the reason: tests that need a GPU (`pytest -m gpu` runs them) where there is none, and those
marked `once` in the run on the PyTorch siblings alone.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from siblings import ON_GPU, why_no_gpu

# A busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


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
