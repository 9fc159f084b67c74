"""Operations in a forked child process, and with corrupted arguments: they return or raise, and never crash."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from fastsam_core import ops
from fastsam_core.ops import schema
from op_examples import COVERED, example
from siblings import EMULATED, NAMES, run_python

needs_native = pytest.mark.skipif(not ops.available_isas(), reason="no native operations")


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_every_operation_gives_equal_bytes_in_a_forked_child() -> None:
    # A fresh process uses our threads, then forks. A hang would end in the timeout of run_python.
    done = run_python(
        "import os, sys, torch\n"
        "sys.path.insert(0, os.environ['TESTS'])\n"
        "from fastsam_core import ops\n"
        "from op_examples import COVERED, EXAMPLES, flat_bytes\n"
        "arguments = {op: [EXAMPLES[op](), EXAMPLES[op]()] for op in COVERED}\n"  # twice: some write in place
        "torch.set_num_threads(3)\n"
        "native = f'cpu[{ops.isa()}]'\n"
        "call = lambda op: flat_bytes(ops.siblings(op)[native](*arguments[op].pop()))\n"
        "expected = {op: call(op) for op in COVERED}\n"
        "torch.rand(3000, 3000).sum()\n"  # starts PyTorch's own threads, which do not survive a fork
        "for op in COVERED:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        os._exit(0 if call(op) == expected[op] else 1)\n"
        "    print(op, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n",
        TESTS=os.path.dirname(__file__),
    )
    assert done.stdout.split() == [word for op in COVERED for word in (op, "0")], done.stderr


def spoil_tensor(rng: random.Random, tensor: Tensor) -> Any:
    """Return the tensor with another dtype, shape, layout, device or content, or something that is no tensor."""
    ways = [
        lambda t: t.to(rng.choice([torch.float16, torch.float64, torch.int8, torch.int32, torch.bool])),
        lambda t: t.to(torch.complex64),
        lambda t: t[None],
        lambda t: t.reshape(-1)[:0],
        lambda t: t.reshape(-1)[: rng.randrange(1, 4)],
        lambda t: t[:0],
        lambda t: t[: len(t) // 2],
        lambda t: t[::2],
        lambda t: t.flip(0),
        lambda t: t.reshape(-1)[0],
        lambda t: t[..., None],
        lambda t: t.transpose(0, -1),
        lambda t: torch.full_like(t, 2**62) if t.dtype == torch.int64 else torch.zeros_like(t),
        lambda t: torch.full_like(t, -1) if t.dtype == torch.int64 else torch.ones_like(t),
        lambda t: torch.full_like(t, float("nan")) if t.is_floating_point() else ~t,
        lambda t: torch.full_like(t, float("inf")) if t.is_floating_point() else t,
        lambda t: t.to("meta"),
        lambda t: t.to_sparse(),
        lambda t: t.reshape(-1)[:3].tolist(),
        lambda t: "tensor",
    ]
    return rng.choice(ways)(tensor.clone())


def spoil(rng: random.Random, value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim():
        return spoil_tensor(rng, value)
    if isinstance(value, bool):
        return rng.choice([not value, None, "yes"])
    if isinstance(value, int):
        return rng.choice([-value - 1, 0, 1, value + 1, 2**31, 2**40, 2**62, -(2**63), 0.5, None, "7"])
    if isinstance(value, float):
        return rng.choice([-value, float("nan"), float("inf"), 1e300, None, "7"])
    if isinstance(value, list):
        return rng.choice([[], value[:-1], [*value, 1.0], [float("nan")] * len(value), [0.0] * len(value), None, "abc"])
    return object()


# Words in the RuntimeErrors with which PyTorch itself refuses a type, layout or device.
REFUSALS = (
    "fastsam_core::",
    "not implemented for",
    "parse",
    "layout",
    "Could not run",
    "meta",
    "Sparse",
    "Unable to cast",
)


def check_spoilt(op: str, sibling: str, run: Callable[..., Any]) -> None:
    """Call `run` with 40 corrupted argument lists: each call returns or raises a known error; some must raise."""
    rng, arguments, rejected = random.Random(op), example(op, sibling, split=False), 0
    for _ in range(40):
        spoilt = list(arguments)
        for at in rng.sample(range(len(spoilt)), rng.choice([1, 1, 1, min(2, len(spoilt))])):
            with suppress(RuntimeError, TypeError, IndexError):  # PyTorch can't change this tensor in this way
                spoilt[at] = spoil(rng, spoilt[at])
        try:
            run(*spoilt)
        except (ValueError, TypeError, MemoryError):
            rejected += 1
        except RuntimeError as error:  # NotImplementedError is one too
            assert any(words in str(error) for words in REFUSALS), error
            rejected += 1
    assert rejected > 5


# Through the dispatcher, as callers do. The reference is left out: plain PyTorch can't access foreign memory.
@pytest.mark.parametrize("sibling", [name for name in NAMES if name != "reference"])
@pytest.mark.parametrize("op", COVERED)
def test_corrupted_arguments_return_or_raise(op: str, sibling: str) -> None:
    with ops.use_isa(sibling[4:-1]):
        check_spoilt(op, sibling, getattr(ops, op))


@needs_native
@pytest.mark.parametrize("op", [op for op in COVERED if op in schema.CUDAS])
def test_corrupted_arguments_of_cuda_kernels_return_or_raise(op: str) -> None:
    # A torch.library of its own dispatches CPU tensors to the emulated CUDA sibling.
    namespace = f"emulated_{op}"
    library = torch.library.Library(namespace, "DEF")
    library.define(op + schema.SCHEMAS[op])
    library.impl(op, schema.require_one_device(op, ops.siblings(op)[EMULATED]), "CPU")
    fakes = import_module(f"fastsam_core.ops.{schema.FAMILY_OF[op]}.schema")
    torch.library.register_fake(f"{namespace}::{op}", getattr(fakes, op), lib=library)
    check_spoilt(op, EMULATED, getattr(getattr(torch.ops, namespace), op).default)
