"""Loading the CUDA module, choosing its kernels for a call, and the reasons reported when PyTorch runs it instead."""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import cuda_emulation
import fastsam_core
from fastsam_core import doctor, ops, preprocess
from fastsam_core.models import native
from fastsam_core.ops import _dispatch_bypass, _native_cuda, schema
from fastsam_core.ops._dispatch_bypass import can_bypass_dispatcher
from fastsam_core.ops._native import cpu_module
from op_examples import EXAMPLES
from siblings import EMULATED, emulated, run_python

HEADER = Path(__file__).parent.parent / "csrc" / "common" / "dtype.h"
needs_native = pytest.mark.skipif(cpu_module is None, reason="the compiled operations are off")

# Code that registers a stand-in for the compiled module in a fresh process, since the real one may not be built.
STAND_IN = """
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
module = ModuleType("fastsam_core._cuda")
module.__spec__ = ModuleSpec("fastsam_core._cuda", None)
module.EMULATED, module.ARCHITECTURES, module.__file__ = False, "80, 90a", "/there/_cuda.so"
sys.modules["fastsam_core._cuda"] = module
"""


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make an empty module `fastsam_core._cuda` importable and return it."""
    module = ModuleType("fastsam_core._cuda")
    module.__spec__ = ModuleSpec("fastsam_core._cuda", None)
    monkeypatch.setitem(sys.modules, "fastsam_core._cuda", module)
    monkeypatch.delenv("FASTSAM_NATIVE", raising=False)
    monkeypatch.delenv("FASTSAM_CUDA_KERNELS", raising=False)
    return module


def gpu_tensor() -> torch.Tensor:
    """Return a fake tensor on device "cuda"; needs no GPU."""
    with FakeTensorMode():
        return torch.empty(3, dtype=torch.int64, device="cuda")


# -------------------------------------------------------------------------------------------------------------- loading


def test_built_module_is_loaded_unless_switched_off(built, monkeypatch):
    assert _native_cuda._load() == (built, "")
    monkeypatch.setenv("FASTSAM_CUDA_KERNELS", "0")
    assert _native_cuda._load() == (None, _native_cuda.SWITCHED_OFF)
    monkeypatch.setenv("FASTSAM_CUDA_KERNELS", "1")
    assert _native_cuda._load() == (built, "")
    monkeypatch.setenv("FASTSAM_NATIVE", "0")
    assert _native_cuda._load() == (None, "switched off by FASTSAM_NATIVE=0")


def test_invalid_value_of_fastsam_cuda_kernels_raises(built, monkeypatch):
    monkeypatch.setenv("FASTSAM_CUDA_KERNELS", "yes")
    with pytest.raises(ValueError, match="FASTSAM_CUDA_KERNELS=yes: it must be 1 or 0"):
        _native_cuda._load()


def test_missing_module_warns_only_if_kernels_are_requested(built, monkeypatch, caplog):
    monkeypatch.setattr(_native_cuda, "find_spec", lambda name: None)
    assert _native_cuda._load() == (None, "not built")
    assert not caplog.records
    monkeypatch.setenv("FASTSAM_CUDA_KERNELS", "1")
    assert _native_cuda._load() == (None, "not built") and _native_cuda._load() == (None, "not built")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "FASTSAM_CUDA=ON" in caplog.text and "PyTorch runs every operation on a GPU" in caplog.text


def test_import_error_of_the_module_is_logged_once(built, monkeypatch, caplog):
    def fail(name):
        raise ImportError("libstrange.so.3: cannot open shared object file")

    monkeypatch.setenv("FASTSAM_CUDA_KERNELS", "1")
    monkeypatch.setattr(_native_cuda.importlib, "import_module", fail)
    module, reason = _native_cuda._load()
    assert module is None and _native_cuda._load() == (None, reason)
    assert reason == "the module fastsam_core._cuda can't be loaded: libstrange.so.3: cannot open shared object file"
    assert caplog.text.count("libstrange") == 1


@pytest.mark.once("its processes are told what to use")
def test_cuda_switch_registers_kernels():
    code = STAND_IN + (
        "import torch\n"
        "from fastsam_core import doctor, ops\n"
        "has = torch._C._dispatch_has_kernel_for_dispatch_key\n"
        "print([op for op in ops.schema.SCHEMAS if has(f'fastsam_core::{op}', 'CUDA')] == list(ops.schema.CUDAS))\n"
        "print('cuda' in ops.siblings('rle_area'), 'cuda' in ops.siblings('rle_to_string'), sep='\\n')\n"
        "print(ops.why('rle_area')['cuda'])\n"
        "print([line.strip() for line in doctor.report().splitlines() if 'CUDA kernels' in line or '_cuda.so' in line])"
    )
    on = run_python(code, FASTSAM_CUDA_KERNELS="", FASTSAM_NATIVE="1")
    assert on.stdout.splitlines()[:4] == ["True", "True", "False", "the tensor is on 'cpu'"], on.stderr
    assert "/there/_cuda.so, for 80, 90a" in on.stdout
    off = run_python(code, FASTSAM_CUDA_KERNELS="0", FASTSAM_NATIVE="1")
    assert off.stdout.splitlines()[:4] == ["False", "False", "False", _native_cuda.SWITCHED_OFF], off.stderr
    assert f"CUDA kernels  {_native_cuda.SWITCHED_OFF}" in off.stdout


@pytest.mark.parametrize("reason", [_native_cuda.NOT_BUILT, _native_cuda.SWITCHED_OFF, ""])
def test_doctor_reports_whether_kernels_are_in_use(monkeypatch, reason):
    monkeypatch.setattr(doctor, "cuda_reason", reason)
    expected = reason or ("in use" if torch.cuda.is_available() else "switched on, but ")
    assert f"CUDA kernels  {expected}" in doctor.report()


# ------------------------------------------------------------------------------------------------------------- choosing


def test_why_explains_the_choice_for_gpu_tensors(monkeypatch):
    tensor = gpu_tensor()
    monkeypatch.setattr(schema, "cuda_reason", _native_cuda.SWITCHED_OFF)
    why = ops.why("rle_area", tensor)
    assert why["cuda"] == f"CUDA kernels: {_native_cuda.SWITCHED_OFF}" and why["reference"] == ""
    monkeypatch.setattr(schema, "cuda_reason", "")
    why = ops.why("rle_area", tensor)
    assert why["cuda"] == "" and why["reference"] == "the cuda sibling runs this call" and why["cpu"]
    assert ops.why("conv3x3", tensor)["cuda"] == "conv3x3 has no CUDA kernel"
    monkeypatch.setattr(schema.CUDAS["rle_area"], "why_not", lambda op, t: f"{op} of {t.dtype}?", raising=False)
    why = ops.why("rle_area", tensor)
    assert why["cuda"] == "rle_area of torch.int64?" and why["reference"] == ""


def test_fallback_to_pytorch_on_gpu_tensors_is_logged_once(monkeypatch, caplog):
    _native_cuda.log_pytorch_fallback.cache_clear()
    monkeypatch.setattr(schema, "cuda_reason", _native_cuda.SWITCHED_OFF)
    served = schema._with_fallback_log("rle_area", lambda counts, offsets: "the result")
    tensor = gpu_tensor()
    with caplog.at_level(logging.INFO, "fastsam_core"):
        assert served(torch.ones(1), torch.ones(1)) == "the result" and not caplog.records
        assert served(tensor, tensor) == served(tensor, tensor) == "the result"
    (record,) = caplog.records
    assert record.getMessage() == f"PyTorch runs operations on GPU tensors: CUDA kernels: {_native_cuda.SWITCHED_OFF}"


# ------------------------------------------------------------------------------------ GPUs that don't run the kernels

NO_CODE = "no kernel image is available for execution on the device"


@pytest.fixture
def no_code(built: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Simulate two GPUs whose first one the kernels have no code for; yield the reason that is reported for it."""
    current = [0]

    @contextmanager
    def device(index: int) -> Iterator[None]:
        before, current[0] = current[0], index
        yield
        current[0] = before

    built.EMULATED, built.ARCHITECTURES, built.unavailable_reason = (
        False,
        "80, 90a",
        lambda: "" if current[0] else NO_CODE,
    )
    for part in (_native_cuda, _dispatch_bypass, native, preprocess):
        monkeypatch.setattr(part, "cuda_module", built)
    for part in (schema, doctor):
        monkeypatch.setattr(part, "cuda_reason", "")
    for name, value in (("device", device), ("current_device", lambda: 0), ("get_device_name", lambda gpu: "Tesla T4")):
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    _native_cuda._why_not_on.cache_clear()
    with _native_cuda.use_module(built):
        yield f"built for 80, 90a, they don't run on the Tesla T4: {NO_CODE}"
    _native_cuda._why_not_on.cache_clear()


@torch.no_grad()
def test_gpu_without_compiled_code_falls_back_to_pytorch(no_code, monkeypatch):
    with FakeTensorMode():
        tensors = [torch.empty(3, device=f"cuda:{i}") for i in range(2)]
    monkeypatch.setattr(_dispatch_bypass, "_PLAIN_TYPES", (type(tensors[0]),))
    assert [ops.why("nms", tensor)["cuda"] for tensor in tensors] == [f"CUDA kernels: {no_code}", ""]
    run = schema._with_device_fallback(lambda *args: "kernels", lambda *args: "PyTorch")
    assert [run(1, tensor) for tensor in tensors] == ["PyTorch", "kernels"]
    for takes in (_native_cuda.has_kernels_for, can_bypass_dispatcher, native.can_use_cuda_kernels):
        assert [takes(tensor) for tensor in tensors] == [False, True], takes
    devices = [torch.device(name) for name in ("cuda", "cuda:0", "cuda:1", "cpu")]
    assert [preprocess._can_resize_on(device) for device in devices] == [False, False, True, True]
    assert f"CUDA kernels  {no_code}" in doctor.report()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "CUDA kernels  in use" in doctor.report()


def test_doctor_reports_the_error_of_a_busy_gpu(no_code, built):
    def fail() -> str:
        raise RuntimeError("CUDA-capable device(s) is/are busy or unavailable\nmore of it")

    built.unavailable_reason = fail
    busy = "CUDA-capable device(s) is/are busy or unavailable"
    assert f"CUDA kernels  cuda:0: {busy}; cuda:1: {busy}\n" in doctor.report()


def test_dispatched_operations_check_that_the_gpu_can_run_the_kernels():
    code = STAND_IN + (
        "import torch\n"
        "from fastsam_core.ops import schema\n"
        "asked = []\n"
        "schema.why_not_on = lambda device: asked.append(device) or 'there is no code for it'\n"
        "there = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)\n"
        "runs = torch.tensor([0, 5, 1, 2]), torch.tensor([0, 4])\n"
        "print(torch.ops.fastsam_core.rle_area.default.redispatch(there, *runs).tolist(), len(asked))"
    )
    done = run_python(code, FASTSAM_CUDA_KERNELS="", FASTSAM_NATIVE="1")
    assert done.stdout.splitlines() == ["[7] 1"], done.stderr


# --------------------------------------------------------------------------------------------------------- the module


@needs_native
def test_tensors_on_an_unreachable_device_are_refused():
    run = ops.siblings("rle_area")[EMULATED]
    with pytest.raises(ValueError, match="all be on one 'cpu' device; got cuda:0"):
        run(gpu_tensor(), gpu_tensor())
    real = ModuleType("_cuda")
    real.EMULATED = False
    counts, offsets = EXAMPLES["rle_area"]()
    with pytest.raises(ValueError, match="all be on one 'cuda' device; got cpu"):
        _native_cuda.bind_module(real, schema.CUDAS["rle_area"].rle_area)(counts, offsets)


@pytest.mark.skipif(bool(cuda_emulation.why_not()), reason=cuda_emulation.why_not())
def test_stub_matches_the_compiled_module():
    stub = ast.parse((Path(fastsam_core.__file__).parent / "_cuda.pyi").read_text())
    module = cuda_emulation.load()
    public = {name for name in dir(module) if not name.startswith("_") and callable(getattr(module, name))}
    listed = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert set(listed) == public - {"set_order", "launched_kernels"}  # these exist only in the emulator
    functions = [(module, node) for node in listed.values() if isinstance(node, ast.FunctionDef)]
    for node in listed.values():
        if isinstance(node, ast.ClassDef):
            functions += [(getattr(module, node.name), method) for method in node.body]
    for owner, node in functions:
        documented = getattr(owner, node.name).__doc__ or ""
        for argument in node.args.args:
            assert f"{argument.arg}:" in documented or node.decorator_list, (node.name, argument.arg)


@pytest.mark.skipif(not HEADER.exists(), reason="it needs the source tree")
def test_dtype_codes_match_the_cpp_header():
    header = HEADER.read_text()
    for dtype, number in _native_cuda.DTYPES.items():
        assert f"{str(dtype).removeprefix('torch.')} = {number}" in header


def test_missing_emulator_skips_single_tests_not_whole_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pytest inspects attributes of everything a test file imports; a skip raised there would drop the whole file.

    Only tests that use the emulator may skip, one by one.
    """
    monkeypatch.setattr(cuda_emulation, "why_not", lambda: "no compiler")
    try:
        assert not hasattr(emulated, "__wrapped__")
    except pytest.skip.Exception:
        pytest.fail("pytest would leave out the file")
    with pytest.raises(pytest.skip.Exception, match="no compiler"):
        emulated.nms  # noqa: B018
