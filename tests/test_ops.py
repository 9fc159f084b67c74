"""Tests of every operation: dispatcher checks, choice of sibling and instruction set, threads, bad arguments."""

from __future__ import annotations

import ast
import copy
import logging
import re
import threading
from pathlib import Path

import pytest
import torch

import fastsam_core
from decoder_arguments import arguments
from fastsam_core import ops
from fastsam_core.ops import _inputs, _native, schema
from fastsam_core.ops._native import cpu_module, cpu_reason
from siblings import NAMES, implementation, names_of, run_python

needs_native = pytest.mark.skipif(cpu_module is None, reason=f"no native operations: {cpu_reason}")

COUNTS, OFFSETS = torch.tensor([3, 2, 7, 0, 12]), torch.tensor([0, 3, 5])
HEIGHTS, WINDOWS, FLAGS = torch.tensor([3, 4]), torch.zeros(2, 4, dtype=torch.int64), torch.tensor([False, True])
IMAGE = torch.arange(7 * 6 * 3, dtype=torch.uint8).view(7, 6, 3)
LAYER = (
    torch.rand(4, 6),
    torch.rand(5, 6),
    torch.rand(5),
    "gelu",
    torch.rand(6),
    torch.rand(6),
    1e-6,
    torch.rand(4, 5),
)
MLP = (torch.rand(4, 6), torch.rand(6), torch.rand(6), 1e-6, torch.rand(9, 6), torch.rand(9), torch.rand(6, 9))
QKV = torch.linspace(-1, 1, 2 * 3 * 5 * 24).view(2, 3, 5, 24)
_DECODER = {"heads": 2, "prompts": 3, "tokens": 3, "dim": 8, "grid": (4, 8)}  # 32 image tokens are two full panels
EXAMPLES = {
    "add_norm_into": (torch.rand(4, 6), torch.rand(4, 6), torch.rand(6), torch.rand(6), 1e-6),
    "linear": LAYER,
    "linear_into": (torch.zeros(4, 5), *LAYER),
    "mlp": (*MLP, torch.rand(6)),
    "mlp_into": (torch.zeros(4, 6), *MLP, torch.rand(6)),
    "attention": (QKV, torch.linspace(-1, 1, 12).view(3, 4), torch.ones(3, 4), 2, 2, QKV[0, 0, 0]),
    "windowed_attention": (QKV, torch.linspace(-1, 1, 32).view(2, 4, 4), 2, QKV[0, 0, 0]),
    "conv3x3": (torch.rand(2, 5, 4, 3), torch.rand(6, 3, 3, 3), torch.rand(6), 2, True),
    "conv_stem": (torch.rand(1, 3, 9, 8), torch.rand(5, 3, 3, 3), torch.rand(5), torch.rand(6, 5, 3, 3), torch.rand(6)),
    "depthwise3x3": (torch.rand(2, 5, 4, 3), torch.rand(3, 3, 3), torch.rand(3), 1, False, torch.rand(3)),
    "mbconv": (
        *(torch.rand(2, 5, 4, 3), torch.rand(7, 3), torch.rand(7), torch.rand(7, 3, 3), torch.rand(7)),
        *(torch.rand(3, 7), torch.rand(3), 1, True),
    ),
    **{name: arguments(name, **_DECODER) for name in schema.SCHEMAS if name.startswith("decoder_")},
    "nms": (torch.tensor([[0.0, 0, 9, 9], [1, 1, 9, 9], [20, 20, 30, 30]]), torch.tensor([0.1, 0.9, 0.5]), 0.5),
    "batched_nms": (torch.rand(5, 4).cumsum(1), torch.rand(5), torch.tensor([0, 1, 0, 1, 2]), 0.5),
    "resize_image": (IMAGE, 5, 4, True),
    "preprocess_image": (IMAGE, 5, 4, 6, [100.0, 110.0, 120.0], [50.0, 55.0, 60.0], True, True),
    "mask_runs": (
        torch.tensor([[[-9.0, 5.0], [2.0, 9.0]], [[1.0, -1.0], [-1.0, -1.0]]]),
        *(torch.tensor([0, 0, 1]), torch.tensor([[0.75, 0.25, 0], [0.5, 0.5, 0], [1, 0, 0]])) * 2,
        *(0.0, 1.0, 4, 5, 1, 0),
    ),
    "mask_remove_small_regions": (COUNTS, OFFSETS, 3, 4, 3.0),
    "rle_encode": (torch.tensor([[[0, 1, 1], [1, 1, 0]], [[1, 0, 0], [0, 0, 1]]], dtype=torch.uint8),),
    "rle_decode": (COUNTS, OFFSETS, 3, 4, False),
    "rle_area": (COUNTS, OFFSETS),
    "rle_to_bbox": (COUNTS, OFFSETS, torch.tensor([3, 3])),
    "rle_iou": (COUNTS, OFFSETS, COUNTS, OFFSETS, torch.tensor([False, True])),
    "rle_merge": (COUNTS, OFFSETS, False),
    "rle_combine": (COUNTS, OFFSETS, COUNTS, OFFSETS, 6),
    "rle_crop": (COUNTS, OFFSETS, torch.tensor([3, 3]), torch.tensor([[-1, 0, 3, 2], [1, 1, 2, 9]])),
    "rle_from_polygon": (torch.tensor([[1.0, 1], [8, 2], [4, 7]], dtype=torch.float64), torch.tensor([0, 3]), 9, 9),
    "rle_to_string": (COUNTS, OFFSETS),
    "rle_from_string": (torch.tensor(list(b"327"), dtype=torch.uint8), torch.tensor([0, 3]), torch.tensor([12])),
}


def test_every_operation_has_an_example():
    assert set(EXAMPLES) == set(schema.SCHEMAS)


@pytest.mark.parametrize("op", EXAMPLES)
def test_opcheck(op):
    torch.library.opcheck(getattr(torch.ops.fastsam_core, op).default, EXAMPLES[op])


def test_opcheck_of_column_major_decode():
    torch.library.opcheck(torch.ops.fastsam_core.rle_decode.default, (COUNTS, OFFSETS, 3, 4, True))


@pytest.mark.parametrize(("op", "sibling"), [(op, name) for op in EXAMPLES for name in ops.siblings(op)])
def test_siblings_match_the_dispatcher(op, sibling):
    expected, given = copy.deepcopy(EXAMPLES[op]), copy.deepcopy(EXAMPLES[op])
    results = _tensors(getattr(ops, op)(*expected)), _tensors(ops.siblings(op)[sibling](*given))
    # Arguments are compared too, since some operations write in place.
    for a, b in zip(results[0] + _tensors(expected), results[1] + _tensors(given), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        # Sums of floats may be rounded in another order; everything else agrees to the bit.
        torch.testing.assert_close(
            a, b, **({"rtol": 1e-4, "atol": 1e-5} if a.dtype == torch.float32 else {"rtol": 0, "atol": 0})
        )


def _tensors(values):
    values = values if isinstance(values, tuple) else (values,)
    return [value for value in values if isinstance(value, torch.Tensor)]


def test_torch_compile_traces_nms_in_one_graph():
    boxes, scores, _ = EXAMPLES["nms"]
    compiled = torch.compile(lambda b, s: ops.nms(b * 2, s, 0.5) + 1, fullgraph=True, backend="aot_eager")
    # Older PyTorch captures operations with data-dependent output shapes only with this setting.
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        assert compiled(boxes, scores).tolist() == (ops.nms(boxes * 2, scores, 0.5) + 1).tolist()


def test_meta_tensors_use_the_fake_implementation():
    counts, offsets = COUNTS.to("meta"), OFFSETS.to("meta")
    assert ops.rle_area(counts, offsets).shape == (2,)
    assert ops.rle_decode(counts, offsets, 3, 4, True).stride() == (12, 1, 3)
    with pytest.raises(ValueError, match="bool or uint8"):
        ops.rle_encode(torch.zeros(1, 2, 2, device="meta"))
    with pytest.raises(ValueError, match="got offsets on 'cpu' and others on 'meta'"):
        ops.rle_area(counts, OFFSETS)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda part: part.to("meta"), r"got image\[1\] on 'meta' and others on 'cpu'"),
        (lambda part: part.to_sparse(), r"decoder_prompts takes dense tensors; image\[1\] is"),
    ],
)
def test_tensors_in_a_list_must_be_dense_and_on_one_device(spoil, message):
    tokens, weights, sizes, (first, second, *others), *rest = EXAMPLES["decoder_prompts"]
    with pytest.raises(ValueError, match=message):
        ops.decoder_prompts(tokens, weights, sizes, [first, spoil(second), *others], *rest)


# ------------------------------------------------------------------------------------------------------------- choosing


def test_why_gives_no_reason_only_for_the_sibling_in_use():
    for op in schema.SCHEMAS:
        why = ops.why(op)
        native = cpu_module and schema.NATIVE_DTYPES.get(schema.FAMILY_OF[op]) != ()
        assert [sibling for sibling, reason in why.items() if not reason] == ["cpu" if native else "reference"]
    why = ops.why("nms", torch.empty(1, device="meta"))
    assert why["reference"] == "" and ("meta" if cpu_module else cpu_reason) in why["cpu"]
    with pytest.raises(ValueError, match="rle_area"):
        ops.why("no_such_op")
    with pytest.raises(ValueError, match="rle_area"):
        ops.siblings("no_such_op")


@needs_native
def test_use_isa_selects_an_instruction_set_and_restores_it():
    assert ops.isa() in ops.available_isas()
    before = ops.isa()
    for name in ops.available_isas():
        with ops.use_isa(name):
            assert ops.isa() == name
        assert ops.isa() == before
    with pytest.raises(ValueError, match=ops.available_isas()[-1]), ops.use_isa("vax"):
        pass
    assert ["reference", *(f"cpu[{name}]" for name in ops.available_isas())] == NAMES


@needs_native
def test_baseline_selects_the_last_available_isa():
    with ops.use_isa("baseline"):
        assert ops.isa() == ops.available_isas()[-1]


@pytest.mark.skipif(cpu_module is not None, reason="there are native operations")
def test_isa_functions_without_native_module():
    assert ops.isa() is None and ops.available_isas() == [] and NAMES == ["reference"]
    with pytest.raises(ValueError, match=r"FASTSAM_NATIVE|can't"), ops.use_isa("avx2"):
        pass


@needs_native
def test_fastsam_isa_forces_an_instruction_set(monkeypatch):
    before, last = ops.isa(), ops.available_isas()[-1]
    with ops.use_isa(before):  # restores the instruction set at the end
        monkeypatch.setenv("FASTSAM_ISA", last)
        assert _native._load()[0] is cpu_module and ops.isa() == last
        monkeypatch.setenv("FASTSAM_ISA", "vax")
        with pytest.raises(ValueError, match=f"^FASTSAM_ISA=vax: .*available: .*{last}"):
            _native._load()


def test_fastsam_native_0_switches_native_operations_off(monkeypatch, caplog):
    monkeypatch.setenv("FASTSAM_NATIVE", "0")
    with caplog.at_level(logging.INFO, "fastsam_core"):
        assert _native._load() == (None, "switched off by FASTSAM_NATIVE=0")
    assert "FASTSAM_NATIVE=0" in caplog.text
    monkeypatch.setenv("FASTSAM_NATIVE", "off")
    with pytest.raises(ValueError, match="FASTSAM_NATIVE=off: it must be 1 or 0"):
        _native._load()


def test_failed_import_of_the_module_is_logged_once_and_falls_back():
    # In a fresh process, because operations are registered once, at import.
    done = run_python(
        "import sys; sys.modules['fastsam_core._cpu'] = None\n"
        "from fastsam_core import ops, rle, doctor\n"
        "import numpy as np\n"
        "print(rle.encode(np.ones((2, 2), np.uint8)), ops.why('nms')['cpu'])\n"
        "assert 'not in use' in doctor.report()",
        FASTSAM_NATIVE="1",
    )
    assert done.stdout.startswith("{'size': [2, 2], 'counts': b'04'} the module fastsam_core._cpu can't be loaded"), (
        done.stderr
    )
    assert done.stderr.count("can't be loaded") == 1 and "PyTorch runs every operation" in done.stderr


# ------------------------------------------------------------------------------------------------ processes and threads


@needs_native
def test_concurrent_calls_return_the_same_result():
    masks = torch.rand(4, 300, 300) > 0.5
    expected = ops.rle_encode(masks)[0].tolist()
    results = []

    def work():
        for _ in range(10):
            results.append(ops.rle_encode(masks)[0].tolist() == expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


# ---------------------------------------------------------------------------------------------------- the native module


@needs_native
def test_stub_matches_the_compiled_module():
    stub = ast.parse((Path(fastsam_core.__file__).parent / "_cpu.pyi").read_text())
    functions = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    public = {name for name in dir(cpu_module) if not name.startswith("_") and callable(getattr(cpu_module, name))}
    assert set(functions) == public
    for name, node in functions.items():
        documented = getattr(cpu_module, name).__doc__
        assert {argument.arg for argument in node.args.args} == set(re.findall(r"(\w+): ", documented)), name


# The RLE family, because some of its operations have a CUDA form and others have none.
@pytest.mark.parametrize("sibling", names_of("rle_area"))
@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("rle_area", (COUNTS.float(), OFFSETS)),
        ("rle_area", (COUNTS, OFFSETS[:0])),
        ("rle_area", (COUNTS, torch.tensor([0, 4, 2, 5]))),
        ("rle_area", (COUNTS, torch.tensor([1, 3, 5]))),
        ("rle_area", (COUNTS, torch.tensor([0, 3, 4]))),
        ("rle_area", (-COUNTS, OFFSETS)),
        ("rle_area", (torch.tensor([2**62, 2**62, 2**62, 2**62]), torch.tensor([0, 4]))),
        ("rle_area", (torch.tensor([2**61, 2**61]), torch.tensor([0, 2]))),  # only their sum is too large
        ("rle_decode", (COUNTS, OFFSETS, 3, 5)),
        ("rle_decode", (COUNTS, OFFSETS, -3, -4)),
        ("rle_decode", (COUNTS, OFFSETS, 2**40, 2**40)),
        ("rle_encode", (torch.zeros(2, 2, dtype=torch.bool),)),
        ("rle_encode", (torch.zeros(1, 2, 2),)),
        ("rle_to_bbox", (COUNTS, OFFSETS, torch.tensor([3]))),
        ("rle_to_bbox", (COUNTS, OFFSETS, torch.tensor([0, 0]))),
        ("rle_to_bbox", (COUNTS, OFFSETS[0], torch.tensor([3]))),
        ("rle_iou", (COUNTS, OFFSETS, COUNTS, OFFSETS[0], torch.tensor([False]))),
        ("rle_iou", (COUNTS, OFFSETS, COUNTS[:3], OFFSETS[:2], torch.tensor([0]))),
        ("rle_iou", (COUNTS, OFFSETS, COUNTS[:2], torch.tensor([0, 2]), torch.tensor([False]))),
        ("rle_merge", (COUNTS[:4], torch.tensor([0, 3, 4]))),
        ("rle_from_polygon", (torch.ones(3, 2), torch.tensor([0, 3]), 4, 4)),
        ("rle_from_polygon", (torch.ones(3, 2).double(), OFFSETS[:0], 4, 4)),
        ("rle_from_polygon", (torch.ones(3, 2).double() * torch.nan, torch.tensor([0, 3]), 4, 4)),
        ("rle_from_polygon", (torch.ones(3, 2).double() * 1e10, torch.tensor([0, 3]), 4, 4)),
        ("rle_from_string", (torch.tensor([48], dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([-1]))),
        (  # runs of 2^62 - 1 and 1: too many pixels together
            "rle_from_string",
            (torch.tensor(list(b"oooooooooooo31"), dtype=torch.uint8), torch.tensor([0, 14]), torch.tensor([2**62])),
        ),
    ],
)
def test_bad_rle_arguments_raise_value_error_in_every_sibling(sibling, op, arguments):
    with pytest.raises(ValueError):
        implementation(op, sibling)(*arguments)


@pytest.mark.parametrize("sibling", names_of("rle_area"))
@pytest.mark.parametrize(
    ("op", "arguments", "message"),
    [
        ("rle_encode", (torch.zeros(1, 2, 2),), "masks must be bool or uint8"),
        ("rle_decode", (COUNTS.float(), OFFSETS, 3, 4), "^counts must be"),
        ("rle_decode", (COUNTS, OFFSETS.int(), 3, 4), "^the offsets of counts must be"),
        ("rle_decode", (COUNTS, OFFSETS, -3, -4), "can't be negative; got -3 x -4"),
        ("rle_area", (COUNTS.float(), OFFSETS), "^counts must be"),
        ("rle_to_bbox", (COUNTS, OFFSETS, torch.tensor([3])), "^heights must have 2 values; got 1"),
        ("rle_to_bbox", (COUNTS, OFFSETS, torch.tensor([3.0, 3.0])), "^heights must be a 1-D tensor of torch.int64"),
        ("rle_iou", (COUNTS.float(), OFFSETS, COUNTS, OFFSETS, FLAGS), "^dt_counts must be"),
        ("rle_iou", (COUNTS, OFFSETS, COUNTS, OFFSETS.int(), FLAGS), "^the offsets of gt_counts must be"),
        ("rle_iou", (COUNTS, OFFSETS, COUNTS, OFFSETS, FLAGS.int()), "^iscrowd must be a 1-D tensor of torch.bool"),
        ("rle_iou", (COUNTS, OFFSETS, COUNTS[:3], OFFSETS[:2], FLAGS), "^iscrowd must have 1 values; got 2"),
        ("rle_merge", (COUNTS[None], OFFSETS), "^counts must be"),
        ("rle_combine", (COUNTS.int(), OFFSETS, COUNTS, OFFSETS, 2), "^a_counts must be"),
        ("rle_combine", (COUNTS, OFFSETS, COUNTS.int(), OFFSETS, 2), "^b_counts must be"),
        ("rle_combine", (COUNTS, OFFSETS, COUNTS, OFFSETS, 3), "^truth must be an even number from 0 to 14"),
        ("rle_crop", (COUNTS, OFFSETS, HEIGHTS[:1], WINDOWS), "^heights must have 2 values; got 1"),
        ("rle_crop", (COUNTS, OFFSETS, HEIGHTS, WINDOWS[:1]), r"^windows must be \(2, 4\) int64"),
        ("rle_crop", (COUNTS, OFFSETS, HEIGHTS, WINDOWS.int()), r"^windows must be \(2, 4\) int64"),
        ("rle_from_polygon", (torch.ones(3, 2), torch.tensor([0, 3]), 4, 4), "^points must be .* float64"),
        ("rle_from_polygon", (torch.ones(3, 2).double(), torch.tensor([0, 3]), 4, -1), "can't be negative; got 4 x -1"),
        ("rle_to_string", (COUNTS, OFFSETS[:0]), "^the offsets of counts must have at least one value"),
        ("rle_from_string", (COUNTS, OFFSETS, HEIGHTS), "^text must be a 1-D tensor of torch.uint8"),
        ("rle_from_string", (COUNTS.byte(), OFFSETS, HEIGHTS[:1]), "^pixels must have 2 values; got 1"),
        ("rle_from_string", (COUNTS.byte(), OFFSETS, HEIGHTS.float()), "^pixels must be a 1-D tensor of torch.int64"),
    ],
)
def test_errors_of_rle_operations_name_the_argument(sibling, op, arguments, message):
    with pytest.raises(ValueError, match=message):
        implementation(op, sibling)(*arguments)


@pytest.mark.parametrize("sibling", names_of("rle_area"))
def test_decoded_masks_must_fit_into_memory_together(sibling, monkeypatch):
    monkeypatch.setattr(_inputs, "_memory_limit", lambda: 100)
    decode = implementation("rle_decode", sibling)
    assert decode(torch.full((4,), 25), torch.arange(5), 5, 5).shape == (4, 5, 5)
    with pytest.raises(MemoryError, match="101 bytes, more than this machine has"):
        decode(torch.tensor([101]), torch.arange(2), 1, 101)
    with pytest.raises(MemoryError, match="104 bytes"):
        decode(torch.full((4,), 26), torch.arange(5), 2, 13)
