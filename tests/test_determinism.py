"""Every native operation gives the same bits over repeats and over thread counts, in every instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastsam_core import ops
from fastsam_core.ops import schema
from op_examples import COVERED, EXAMPLES, example, flat_bytes, written
from siblings import EMULATED, emulated

REPEATS = 20
NATIVE = [(op, name) for op in COVERED for name in ops.siblings(op) if name != "reference"]


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


def bits(op: str, sibling: str) -> list[object]:
    """Of the result and of what the operation wrote to; its other arguments must be as they were."""
    arguments, outputs = example(op, sibling), written(op)
    kept = [value for i, value in enumerate(arguments) if i not in outputs]
    before = flat_bytes(kept)
    result = ops.siblings(op)[sibling](*arguments)
    assert flat_bytes(kept) == before, "the operation changed its input"
    return flat_bytes([result, *(arguments[i] for i in sorted(outputs))])


@pytest.mark.parametrize(("op", "sibling"), [pair for pair in NATIVE if pair[1] != EMULATED])
def test_equal_bits_over_repeats_and_threads(op: str, sibling: str) -> None:
    torch.set_num_threads(1)
    expected = bits(op, sibling)
    for repeat in range(REPEATS):
        torch.set_num_threads((1, 2, 4)[repeat % 3])
        assert bits(op, sibling) == expected, f"call {repeat} on {torch.get_num_threads()} threads"


# A barrier that is missing shows where the threads of a block go the other way round: each then meets what another one
# has not written yet, or has written over.
@pytest.mark.parametrize("op", [op for op, name in NATIVE if name == EMULATED])
def test_equal_bits_in_either_order_of_threads(op: str) -> None:
    forward = bits(op, EMULATED)
    emulated.set_order(backward=True)
    try:
        assert bits(op, EMULATED) == forward
    finally:
        emulated.set_order(backward=False)
