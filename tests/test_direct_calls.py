"""Tests of operations that bypass PyTorch's dispatcher: when they do, and that results are the same.

No GPU is needed: the emulator runs the kernels, or fake tensors claim to be on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from fastsam_core import ops
from fastsam_core.ops import _dispatch_bypass, _native_cuda
from fastsam_core.ops._attention import api
from fastsam_core.ops._dispatch_bypass import can_bypass_dispatcher, is_unobserved
from fastsam_core.ops._native_cuda import on_device_of
from siblings import EMULATED, emulated, names_of
from test_attention import example, windowed_example
from test_attention_half import cast

CALLS = [
    ("attention", example(5, 6, 4, dim=64)),
    ("attention", example(4, 36, dim=64)),
    ("windowed_attention", windowed_example(6, 5, 4, dim=32)),
]


class Seen(TorchDispatchMode):
    """Records the names of this package's operations that the dispatcher sees."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fastsam_core":
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(EMULATED not in names_of("attention"), reason="the compiled operations are off")
@pytest.mark.parametrize(("op", "arguments"), CALLS)
@torch.no_grad()
def test_direct_call_equals_the_sibling_and_skips_the_dispatcher(
    monkeypatch: pytest.MonkeyPatch, op: str, arguments: tuple[Any, ...]
) -> None:
    given = cast(arguments, torch.float16)
    expected = ops.siblings(op)[EMULATED](*given)
    asked: list[tuple[Tensor | None, ...]] = []

    def goes(*tensors: Tensor | None) -> bool:
        asked.append(tensors)
        return True

    with Seen() as seen, _native_cuda.use_module(emulated):
        monkeypatch.setattr(api, "can_bypass_dispatcher", goes)
        assert torch.equal(getattr(ops, op)(*given), expected)
        assert seen.names == []
        monkeypatch.setattr(api, "can_bypass_dispatcher", lambda *tensors: False)
        getattr(ops, op)(*given)
        assert seen.names == [op]
    # All tensor arguments are checked, so that no unsuitable one reaches a kernel.
    wanted = [value for value in given if isinstance(value, Tensor)]
    assert [id(tensor) for tensor in asked[0] if tensor is not None] == [id(tensor) for tensor in wanted]


def test_modes_that_observe_operations_prevent_direct_calls() -> None:
    assert torch.is_grad_enabled() and not is_unobserved()
    with torch.inference_mode():
        assert is_unobserved()
    with torch.no_grad():
        assert is_unobserved()
        with torch.enable_grad():
            assert not is_unobserved()
        with Seen():
            assert not is_unobserved()
        with TorchFunctionMode():
            assert not is_unobserved()
        with FakeTensorMode():
            assert not is_unobserved()
        with torch.device("cpu"):
            assert not is_unobserved()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
            assert not is_unobserved()
        assert is_unobserved()


@torch.no_grad()
def test_transforms_tracers_and_compilers_prevent_direct_calls() -> None:
    answers: list[bool] = []

    def ask(x: Tensor) -> Tensor:
        answers.append(is_unobserved())
        return x + 1

    torch.func.vmap(ask)(torch.zeros(2))
    torch.func.functionalize(ask)(torch.zeros(2))
    torch.jit.trace(ask, torch.zeros(2), check_trace=False)
    torch.fx.experimental.proxy_tensor.make_fx(ask)(torch.zeros(2))
    torch.fx.experimental.proxy_tensor.make_fx(ask, pre_dispatch=True)(torch.zeros(2))
    assert answers and not any(answers)

    def branch(x: Tensor) -> Tensor:
        return x + 1 if is_unobserved() else x + 2

    torch._dynamo.reset()
    assert torch.compile(branch, fullgraph=True, backend="eager")(torch.zeros(1)).item() == 2
    assert branch(torch.zeros(1)).item() == 1


class Marked(Tensor):
    """A tensor subclass, such as those for nested or quantised tensors."""


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make operations believe that the CUDA kernels are in use."""
    monkeypatch.setattr(_dispatch_bypass, "cuda_module", ModuleType("_cuda"))


@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_only_plain_gpu_tensors_without_gradients_go_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode():
        fake = torch.empty(2, device="cuda", dtype=torch.float16)
    assert fake.is_cuda and not can_bypass_dispatcher(fake)
    # There are no plain tensors on a GPU here, so declare the type of fake ones to be plain.
    monkeypatch.setattr(_dispatch_bypass, "_PLAIN_TYPES", (type(fake),))
    assert can_bypass_dispatcher(fake) and can_bypass_dispatcher(fake, None, fake)
    assert not can_bypass_dispatcher(fake, torch.empty(2)) and not can_bypass_dispatcher(
        fake, nn.Parameter(torch.empty(2))
    )
    assert not can_bypass_dispatcher(fake, torch.empty(2).as_subclass(Marked))
    with torch.enable_grad():
        assert not can_bypass_dispatcher(fake)
    monkeypatch.setattr(_dispatch_bypass, "cuda_module", None)
    assert not can_bypass_dispatcher(fake)


@pytest.mark.usefixtures("kernels")
@torch.no_grad()
def test_cpu_and_sparse_tensors_never_go_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_bypass_dispatcher(torch.empty(2)) and not can_bypass_dispatcher(nn.Parameter(torch.empty(2)))
    monkeypatch.setattr(Tensor, "is_cuda", True)
    assert can_bypass_dispatcher(torch.empty(2), nn.Parameter(torch.empty(2)))
    assert not can_bypass_dispatcher(torch.empty(2), torch.eye(2).to_sparse())
    assert not can_bypass_dispatcher(torch.empty(2).as_subclass(Marked))


class Device:
    """A stand-in for PyTorch's current device, with two imaginary GPUs."""

    def __init__(self) -> None:
        self.current, self.switched = 0, list[int]()

    def device(self, index: int) -> Any:
        before = self.current

        class Switch:
            def __enter__(_) -> None:
                self.current = index
                self.switched.append(index)

            def __exit__(_, *error: object) -> None:
                self.current = before

        return Switch()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    found = Device()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: found.current)
    monkeypatch.setattr(torch.cuda, "device", found.device)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 1000 + index, raising=False)
    module = ModuleType("_cuda")
    module.EMULATED = False
    with _native_cuda.use_module(module):
        yield found


def test_kernels_run_on_the_device_and_stream_of_their_tensors(
    two_gpus: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeTensorMode():
        first, second = (torch.empty(2, device=f"cuda:{index}") for index in range(2))
    with on_device_of(first, first) as (module, stream):
        assert (module.EMULATED, stream, two_gpus.current, two_gpus.switched) == (False, 1000, 0, [])
    with pytest.raises(KeyError), on_device_of(second) as (_, stream):
        assert (stream, two_gpus.current) == (1001, 1)
        with on_device_of(first) as (_, stream):
            assert (stream, two_gpus.current) == (1000, 0)
        assert two_gpus.current == 1
        raise KeyError
    assert (two_gpus.current, two_gpus.switched) == (0, [1, 0])
    with pytest.raises(ValueError, match="on one 'cuda' device; got cuda:0, cuda:1"):
        on_device_of(first, second)
    with pytest.raises(ValueError, match="on one 'cuda' device; got cpu"):
        on_device_of(torch.empty(2))
    # A PyTorch without `_cuda_getCurrentRawStream` is asked for `current_stream` instead.
    monkeypatch.delattr(torch._C, "_cuda_getCurrentRawStream")
    stream_of = type("Stream", (), {})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: stream_of)
    stream_of.cuda_stream = 7
    with on_device_of(first) as (_, stream):
        assert stream == 7
