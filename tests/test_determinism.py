"""Every native operation gives the same bits over repeats and over thread counts, in every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastsam_core import ops
from fastsam_core.ops import schema
from op_examples import COVERED, EXAMPLES, flat_bytes, written
from siblings import NAMES

REPEATS = 20


@pytest.fixture(autouse=True)
def thread_count() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_operation_has_an_example() -> None:
    missing = set(schema.SCHEMAS) - set(EXAMPLES)
    assert not missing, f"add a line to tests/op_examples.py for {sorted(missing)}"


def test_examples_are_the_same_on_every_call() -> None:
    for op in COVERED:
        assert flat_bytes(EXAMPLES[op]()) == flat_bytes(EXAMPLES[op]()), op


@pytest.mark.parametrize("sibling", [name for name in NAMES if name != "reference"])
@pytest.mark.parametrize("op", COVERED)
def test_equal_bits_over_repeats_and_threads(op: str, sibling: str) -> None:
    run, outputs = ops.siblings(op)[sibling], written(op)

    def bits() -> list[object]:
        """Of the result and of what the operation wrote to; its other arguments must be as they were."""
        arguments = EXAMPLES[op]()
        kept = [value for i, value in enumerate(arguments) if i not in outputs]
        before = flat_bytes(kept)
        result = run(*arguments)
        assert flat_bytes(kept) == before, "the operation changed its input"
        return flat_bytes([result, *(arguments[i] for i in sorted(outputs))])

    torch.set_num_threads(1)
    expected = bits()
    for repeat in range(REPEATS):
        torch.set_num_threads((1, 2, 4)[repeat % 3])
        assert bits() == expected, f"call {repeat} on {torch.get_num_threads()} threads"
