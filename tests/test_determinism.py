"""Every native operation gives the same bits over repeats and over thread counts, in every instruction set."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from fastsam_core import ops
from fastsam_core.ops import schema
from op_examples import COVERED, EXAMPLES, example, flat_bytes, written
from siblings import EMULATED, threads_backwards

REPEATS = 20
NATIVE = [(op, name) for op in COVERED for name in ops.siblings(op) if name != "reference"]
IN_ONE_THREAD = ["add_norm_into", "nms", "rle_area", "rle_from_string", "rle_merge", "rle_to_bbox", "rle_to_string"]


def test_every_operation_has_an_example() -> None:
    missing = set(schema.SCHEMAS) - set(EXAMPLES)
    assert not missing, f"add a line to tests/op_examples.py for {sorted(missing)}"


def test_examples_are_the_same_on_every_call() -> None:
    for op in COVERED:
        assert flat_bytes(EXAMPLES[op]()) == flat_bytes(EXAMPLES[op]()), op


def id_of_a_new_thread() -> int:
    thread = threading.Thread()
    thread.start()
    thread.join()
    assert thread.native_id
    return thread.native_id


# An example too small to be split would make test_equal_bits_over_repeats_and_threads vacuous.
@pytest.mark.skipif(not ops.available_isas(), reason="no native operations")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are not numbered one after the other")
@pytest.mark.parametrize("op", [op for op in COVERED if op not in IN_ONE_THREAD])
def test_examples_are_split_over_threads(op: str) -> None:
    torch.set_num_threads(4)
    getattr(ops, op)(*example(op))  # PyTorch may start its own threads in the first call
    arguments, before = example(op), id_of_a_new_thread()
    getattr(ops, op)(*arguments)
    assert id_of_a_new_thread() > before + 1


def bits(op: str, sibling: str) -> list[object]:
    """Return the bytes of the result and of the written arguments; assert that the other arguments are unchanged."""
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


# A missing barrier shows when the threads of a block run in reverse order: a thread then reads what another hasn't
# written yet or has overwritten.
@pytest.mark.parametrize("op", [op for op, name in NATIVE if name == EMULATED])
def test_equal_bits_in_either_order_of_threads(op: str) -> None:
    forward = bits(op, EMULATED)
    with threads_backwards():
        assert bits(op, EMULATED) == forward
