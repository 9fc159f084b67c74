"""Arguments of another size, type or layout, given to the functions of the compiled module itself: it refuses them.

The C++ code reads and writes memory by the sizes that these functions check. The front ends in `ops` check arguments
first, so nothing else shows that the module does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from fastsam_core import ops
from fastsam_core.ops import schema
from fastsam_core.ops._native import cpu_module
from op_examples import COVERED, example

pytestmark = pytest.mark.skipif(cpu_module is None, reason="no native operations")

# All but those that take no arrays, and those that take COCO's dicts, for which there is test_rle_malformed.py.
FUNCTIONS = [
    name
    for name in dir(cpu_module)
    if name.islower()
    and not name.startswith(("_", "coco_"))
    and name not in ("isa", "available_isas", "force_isa", "has_native_bfloat16")
]
# Arguments that may change as described without any other argument becoming wrong.
VALID = {
    "conv_stem": {"images axis 2 shorter", "images axis 3 shorter", "images axis 3 longer"},  # sides are rounded up
    "decoder_mask_factors": {"layers axis 0 longer", "masks[0] = 0", "masks[1] = 0"},
    "decoder_prompts": {"chosen[1] = 0", "chosen[2] = 0", "chosen[3] = 0"},
    "decoder_upscale": {"state axis 0 longer"},
    "linear": {"activation = 0"},
    "mask_runs": {
        *(f"logits axis {axis} {change}" for axis in range(3) for change in ("shorter", "longer")),
        *("height = 1099511627776", "width = 1099511627776"),
    },
    "preprocess_image": {f"image axis {axis} {change}" for axis in range(2) for change in ("shorter", "longer")},
    "resize_image": {
        f"{image} axis {axis} {change}"
        for image in ("image", "out")
        for axis in range(2)
        for change in ("shorter", "longer")
    },
    "rle_combine": {"truth = 0"},
    "rle_encode": {f"masks axis {axis} {change}" for axis in range(3) for change in ("shorter", "longer")},
    "rle_from_polygon": {f"{side} = {value}" for side in ("height", "width") for value in (0, 2**40)},
    "windowed_attention": {"bias axis 0 shorter"},  # fewer, wider heads
}
ANY_STRIDES = {"rle_encode": {"masks"}, "resize_image": {"image"}, "preprocess_image": {"image"}}
OUTPUTS = {
    "decoder_first_pass": {"state", "value_sum", "coefficient_sum"},
    "decoder_second_pass": {"state", "value_sum", "coefficient_sum"},
    "decoder_prompts": {"state", "final_tokens", "iou", "first_token_values", "second_token_values"},
    "decoder_mask_factors": {"factors", "weights"},
}
OTHER_DTYPE = {"float32": "float64", "float64": "float32", "int64": "int32", "uint8": "int16", "bool": "int16"}


class Recorder:
    """A proxy for the compiled module that records the arguments of each function's last call."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Any]] = {}

    def __getattr__(self, function: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.calls[function] = list(args)
            return getattr(cpu_module, function)(*args)

        return call


@cache
def accepted_calls() -> dict[str, list[Any]]:
    """Return arguments that each function of the module accepts: those that the examples of operations lead to."""
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        for front_end in schema.NATIVES.values():
            patch.setattr(front_end, "_cpu", recorder, raising=False)
        for op in COVERED:
            ops.siblings(op).get(f"cpu[{ops.isa()}]", ops.siblings(op)["reference"])(*example(op, split=False))
    return recorder.calls


def accepted(function: str) -> dict[str, Any]:
    """Return arguments that a function accepts, by name."""
    names = dict.fromkeys(re.findall(r"(\w+): ", getattr(cpu_module, function).__doc__))
    return dict(zip(names, accepted_calls()[function], strict=True))


def is_accepted(function: str, arguments: dict[str, Any], error: type[Exception]) -> bool:
    """Return whether the function takes these arguments; False if it raises `error`."""
    try:
        getattr(cpu_module, function)(*arguments.values())
    except error:
        return False
    return True


def resized(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield copies of the array with one element less or more along each axis, and with another number of axes."""
    for axis, size in enumerate(array.shape):
        yield f"axis {axis} shorter", array.take(range(size - 1), axis)
        yield f"axis {axis} longer", array.take([*range(size), 0], axis)
    yield "with a first axis", array[None].copy()
    yield "with a last axis", array[..., None].copy()
    yield "with an axis less", array[0].copy() if array.ndim > 1 else np.array(array[0])


def spoilt(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield wrong values of the argument `name`, whose right value is `value`."""
    if isinstance(value, np.ndarray):
        yield from ((f"{name} {how}", array) for how, array in resized(value))
    elif isinstance(value, list):
        yield f"{name} shorter", value[:-1]
        yield f"{name} longer", [*value, value[0]]
        for i, part in enumerate(value):
            yield from ((how, [*value[:i], wrong, *value[i + 1 :]]) for how, wrong in spoilt(f"{name}[{i}]", part))
    elif isinstance(value, int) and not isinstance(value, bool) and name != "threads":
        for number in (-1, 0, 2**40, 2**62, 2**63 - 1, -(2**63)):
            if number != value:
                yield f"{name} = {number}", number


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_function_accepts_the_arguments_that_are_spoilt_below(function):
    assert is_accepted(function, accepted(function), ())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_sizes_and_numbers_that_do_not_fit_together_raise_value_error(function):
    arguments, taken = accepted(function), set()
    for name, value in arguments.items():
        for how, wrong in spoilt(name, value):
            # A number beyond 32 bits is a TypeError of pybind11 for a parameter of 32 bits.
            error = ValueError if isinstance(wrong, (np.ndarray, list)) else (ValueError, TypeError)
            if is_accepted(function, {**arguments, name: wrong}, error):
                taken.add(how)
    assert taken == VALID.get(function, set())


@pytest.mark.parametrize("function", FUNCTIONS)
def test_other_dtypes_and_strides_are_refused(function):
    arguments = accepted(function)
    for name, value in arguments.items():
        if not isinstance(value, np.ndarray):
            continue
        converted = value.astype(OTHER_DTYPE[str(value.dtype)])
        if (function, name) != ("nms", "boxes"):  # float32 or float64
            assert not is_accepted(function, {**arguments, name: converted}, (TypeError, ValueError)), name
        spread = np.repeat(value, 2, -1)[..., ::2]
        allowed = name in ANY_STRIDES.get(function, ())
        assert is_accepted(function, {**arguments, name: spread}, (TypeError, ValueError)) == allowed, name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_arrays_for_results_must_be_writeable(function):
    arguments = accepted(function)
    for name in OUTPUTS.get(function, {"out"} & set(arguments)):
        read_only = arguments[name].copy()
        read_only.flags.writeable = False
        with pytest.raises(ValueError, match="writeable"):
            getattr(cpu_module, function)(*{**arguments, name: read_only}.values())


def ints(values: Any) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def attention(out: tuple[int, ...], rel_pos_h: int, rel_pos_w: int, heads: int, window: int, channels: int = 4) -> None:
    table_h, table_w = floats(rel_pos_h, channels), floats(rel_pos_w, channels)
    cpu_module.attention(floats(1, 4, 4, 24), table_h, table_w, heads, window, None, floats(*out), 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.rle_area(ints([1, 2]), ints([])), "offsets must be one-dimensional and not empty"),
        (lambda m: m.rle_area(ints([1, 2]), ints([[0, 2]])), "offsets must be one-dimensional and not empty"),
        (lambda m: m.rle_area(ints([[1, 2]]), ints([0, 1])), "counts must be one-dimensional"),
        (lambda m: m.rle_area(ints([1, 2]), ints([0, 5])), "offsets must rise from 0 to 2"),
        (lambda m: m.rle_area(ints([1, 2]), ints([1, 2])), "offsets must rise from 0 to 2"),
        (lambda m: m.rle_area(ints([1, 2]), ints([0, 2, 1, 2])), "offsets must rise from 0 to 2"),
        (lambda m: m.rle_area(ints([1, -2]), ints([0, 2])), "run lengths must be from 0"),
        (lambda m: m.rle_area(ints([2**62]), ints([0, 1])), "run lengths must be from 0"),
        (lambda m: m.rle_area(ints([2**62 - 1, 1]), ints([0, 2])), "sum to more than"),
        (lambda m: m.rle_to_bbox(ints([1, 2]), ints([0, 2]), ints([])), r"heights must be \(n,\)"),
        (lambda m: m.rle_to_bbox(ints([1, 2]), ints([0, 2]), ints([0])), "its height must be positive"),
        (lambda m: m.rle_decode(ints([]), ints([0]), -1, -1, False, np.zeros((0, 1, 1), bool), 1), "not be negative"),
        (lambda m: m.rle_decode(ints([]), ints([0]), 2**40, 2**40, False, np.zeros((0, 2, 2), bool), 1), "too large"),
        (lambda m: m.rle_decode(ints([1, 9]), ints([0, 2]), 2, 2, False, np.zeros((1, 2, 2), bool), 1), "sum to 10"),
        (lambda m: m.rle_encode(np.zeros((2, 2), bool), 1), r"masks must be \(n, height, width\) of one byte"),
        (lambda m: m.rle_encode(np.zeros((1, 2, 2), np.int16), 1), r"masks must be \(n, height, width\) of one byte"),
        (lambda m: m.rle_encode(np.broadcast_to(np.False_, (1, 1, 2**32)), 1), "wider than 4294967295 pixels"),
        (lambda m: m.rle_from_polygon(np.ones((2, 2)), ints([0, 9]), 3, 3, 1), "offsets must rise from 0 to 2"),
        (lambda m: m.rle_from_polygon(np.ones(2), ints([0, 1]), 3, 3, 1), r"points must be \(p, 2\)"),
        (lambda m: m.rle_from_polygon(np.ones((2, 2)), ints([0, 2]), 3, -3, 1), "not be negative"),
        (lambda m: m.rle_from_string(np.ones((1, 2), np.uint8), ints([0, 1]), ints([1])), "text must be one-dim"),
        (lambda m: m.rle_from_string(np.ones(2, np.uint8), ints([0, 2]), ints([1, 1])), r"pixels must be \(n,\)"),
        (
            lambda m: m.mask_remove_small_regions(ints([]), ints([]), 1, 1, 1.0, 1),
            "counts and offsets must be one-dimensional, offsets not empty",
        ),
        (
            lambda m: m.mask_remove_small_regions(ints([[1]]), ints([0, 1]), 1, 1, 1.0, 1),
            "counts and offsets must be one-dimensional, offsets not empty",
        ),
        (lambda m: m.mask_remove_small_regions(ints([]), ints([0]), 0, 2**31 - 1, 1.0, 1), "nor too large"),
        (lambda m: m.nms(floats(2, 3), np.ones(2), None, 0.5, 1), r"boxes must be \(n, 4\)"),
        (lambda m: m.nms(floats(2, 4), np.ones(3), None, 0.5, 1), r"boxes must be \(n, 4\)"),
        (lambda m: m.nms(floats(2, 4), np.ones((2, 1)), None, 0.5, 1), r"scores must be \(n,\)"),
        (lambda m: m.nms(floats(2, 4), np.ones(2), ints([1]), 0.5, 1), r"classes must be \(n,\)"),
        (lambda m: attention((1, 4, 4, 8), 7, 7, 2, 0, channels=3), "rel_pos_h and rel_pos_w must be"),
        (lambda m: attention((1, 4, 4, 8), 7, 8, 2, 0), "rel_pos_h and rel_pos_w must be"),
        (lambda m: attention((1, 4, 4, 8), 5, 5, 2, -1), "window must not be negative"),
        (lambda m: attention((1, 4, 4, 8), 5, 5, 2, 3), "need a padding vector"),
        (lambda m: attention((1, 4, 4, 8), 7, 7, 2**62, 0), "qkv must be"),
        (
            lambda m: m.windowed_attention(floats(1, 4, 4, 24), floats(2, 4, 5), 2, None, floats(1, 4, 4, 8), 1),
            "bias must be",
        ),
        (
            lambda m: m.windowed_attention(floats(1, 4, 4, 24), floats(2, 4, 4), 2**32, None, floats(1, 4, 4, 8), 1),
            "bias must be",
        ),
        (
            lambda m: m.windowed_attention(floats(1, 3, 4, 24), floats(2, 4, 4), 2, None, floats(1, 3, 4, 8), 1),
            "need a padding vector",
        ),
        (
            lambda m: m.windowed_attention(floats(1, 4, 3, 24), floats(2, 4, 4), 2, None, floats(1, 4, 3, 8), 1),
            "need a padding vector",
        ),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call(cpu_module)


@pytest.mark.parametrize(
    ("function", "changes", "message"),  # of `changes`, tuples are shapes
    [
        ("conv3x3", {"stride": 3, "x": (1, 1, 1, 16), "out": (1, 1, 1, 24)}, "stride must be 1 or 2"),
        ("conv3x3", {"x": (2**24, 0, 1, 16)}, "images are too large"),
        ("conv3x3", {"x": (0, 2**24, 1, 16)}, "images are too large"),
        ("conv3x3", {"x": (0, 1, 2**24, 16)}, "images are too large"),
        ("conv3x3", {"x": (1, 1, 1, 0)}, "from 1 to 1048575 channels"),
        ("conv3x3", {"x": (0, 1, 1, 2**20)}, "from 1 to 1048575 channels"),
        ("conv3x3", {"weight": (0, 16, 3, 3)}, "the weight of a 3 x 3 convolution must be"),
        ("conv3x3", {"x": (0, 1, 1, 1), "weight": (2**20, 1, 3, 3)}, "the weight of a 3 x 3 convolution must be"),
        ("mbconv", {"expand_weight": (0, 16)}, "expand_weight must be"),
        ("mbconv", {"expand_weight": (2**20, 16)}, "expand_weight must be"),
        ("mbconv", {"project_weight": (0, 64)}, "project_weight must be"),
        ("mbconv", {"project_weight": (2**20, 64)}, "project_weight must be"),
        ("mbconv", {"stride": 2, "out": (3, 24, 24, 16)}, "a residual needs stride 1"),
        (
            "mbconv",
            {"project_weight": (8, 64), "project_bias": (8,), "out": (3, 48, 48, 8)},
            "a residual needs stride 1 and as many channels out as in",
        ),
        ("mask_runs", {"logits": (0, 2**31 - 3, 64)}, "more than 2147483644 cells a side"),
        ("mask_runs", {"logits": (0, 64, 2**31 - 3)}, "more than 2147483644 cells a side"),
        ("linear", {"x": (500, 0), "weight": (264, 0)}, "k at least 1"),
        ("linear", {"norm_weight": None}, "belong together"),
        ("linear", {"norm_bias": None}, "belong together"),
        ("linear", {"activation": 3}, "activation must be 0, 1 or 2"),
        ("mlp", {"x": (700, 0), "weight1": (1, 0), "weight2": (0, 1)}, "k at least 1"),
        ("mlp", {"x": ()}, "k at least 1"),
        ("mlp", {"weight1": (0, 1), "weight2": (1, 0)}, "the hidden layer must not be empty"),
        ("decoder_first_pass", {"keys": (5, 0, 6, 16)}, "keys must be"),
        ("decoder_first_pass", {"keys": (5, 2, 0, 16)}, "keys must be"),
        ("decoder_first_pass", {"keys": (5, 2, 6, 0)}, "keys must be"),
        ("decoder_first_pass", {"queries": (5, 2, 0, 16)}, "queries must have 1 to `tokens` tokens"),
        ("decoder_first_pass", {"queries": (5, 2, 5, 16)}, "queries must be like keys"),
        ("decoder_second_pass", {"queries": (5, 2, 7, 16)}, "queries must have 1 to `tokens` tokens"),
        ("decoder_first_token_to_image", {"q": (0, 30, 16)}, "q must be"),
        ("decoder_first_token_to_image", {"q": (2, 30, 0)}, "q must be"),
        (
            "decoder_first_token_to_image",
            {"length": 0, "keys": (0, 32, 16), "values": (2, 0, 16)},
            "length must be positive",
        ),
        ("decoder_first_token_to_image", {"length": 2**40 + 1}, r"at most 2\^40"),
        ("decoder_upscale", {"state": (5, 34, 2, 16), "factors": (2, 64, 2)}, "state must be"),
        ("decoder_upscale", {"weights": (5, 0)}, "weights must be"),
        ("decoder_upscale", {"norm_weight": (0,)}, "and norm_weight"),
        (
            "decoder_upscale",
            {"height": 0, "width": 0, "state": (5, 0, 26, 16), "base": (0, 64, 16), "out": (5, 0, 0)},
            "height and width must be positive",
        ),
        ("decoder_prompts", {"chosen": [], "final_tokens": (5, 0, 64)}, "chosen must hold 1 to `tokens` indices"),
        ("decoder_prompts", {"chosen": [0] * 7, "final_tokens": (5, 7, 64)}, "chosen must hold 1 to `tokens` indices"),
        ("decoder_prompts", {"sizes": [64, 32, 0, 1, 1, 1, 1]}, r"sizes must be from 1 to 2\^20"),
        ("decoder_prompts", {"sizes": [64, 32, 2**20 + 1, 1, 1, 1, 1]}, r"sizes must be from 1 to 2\^20"),
        ("decoder_mask_factors", {"sizes": [0, 1, 1]}, r"sizes must be from 1 to 2\^20"),
        ("decoder_mask_factors", {"sizes": [1, 1, 2**20 + 1]}, r"sizes must be from 1 to 2\^20"),
        ("decoder_upscale", {"height": 2**39, "width": 4}, r"at most 2\^40"),
    ],
)
def test_arguments_that_fit_together_but_are_out_of_range_raise_value_error(function, changes, message):
    arguments = accepted(function)
    for name, change in changes.items():
        arguments[name] = floats(*change) if isinstance(change, tuple) else change
    with pytest.raises(ValueError, match=message):
        getattr(cpu_module, function)(*arguments.values())


@pytest.mark.parametrize(
    ("name", "strides", "message"),  # in bytes
    [
        ("x", (4 * 96 + 2, 4), r"x must be \(m, k\) with contiguous rows"),
        ("x", (4 * 96, 8), r"x must be \(m, k\) with contiguous rows"),
        ("out", (4 * 263, 4), "the rows of out must not overlap"),
        ("out", (-4 * 264, 4), "the rows of out must not overlap"),
    ],
)
def test_rows_of_matrices_are_contiguous_and_those_of_a_result_do_not_overlap(name, strides, message):
    arguments = accepted("linear")
    memory = np.zeros(3 * arguments[name].size, np.float32)[arguments[name].size :]
    arguments[name] = np.lib.stride_tricks.as_strided(memory, arguments[name].shape, strides)
    with pytest.raises(ValueError, match=message):
        cpu_module.linear(*arguments.values())


def test_matrices_of_one_column_may_have_any_strides() -> None:
    names = accepted("linear")
    given = {"x": floats(3, 4)[:, :1], "weight": floats(1, 1), "activation": 0, "eps": 1e-6, "threads": 1}
    result = np.ones((3, 5), np.float32)[:, 2:3]
    cpu_module.linear(*({**dict.fromkeys(names), **given, "out": result}[name] for name in names))
    assert not result.any()
