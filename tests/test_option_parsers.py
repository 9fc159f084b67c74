"""Option parsers: the bounds, types and spellings that each accepts, what it returns, and the messages of refusals."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastsam_core import option_parsers as parse
from fastsam_core._limits import MAX_INPUT_SIDE


def accepts(parser: parse.Parser, value: Any, expected: Any) -> None:
    """Assert that the parsed value has the expected value and type."""
    parsed = parser("option", value)
    assert parsed == expected and type(parsed) is type(expected)


def refuses(parser: parse.Parser, value: Any, error: type[Exception], message: str) -> None:
    """Assert that the parser raises exactly this error and message."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        parser("option", value)


def test_boolean_is_a_bool_or_the_integer_0_or_1() -> None:
    for value in (True, 1, np.True_, np.int64(1)):
        accepts(parse.boolean, value, True)
    for value in (False, 0, np.False_, np.uint8(0)):
        accepts(parse.boolean, value, False)
    refuses(parse.boolean, 2, TypeError, "option must be True or False, not 2 (int)")
    refuses(parse.boolean, 1.0, TypeError, "option must be True or False, not 1.0 (float)")
    with pytest.raises(TypeError, match=r"^show_boxes must be True or False; box prompts are called bboxes, not \[1\]"):
        parse.boolean("show_boxes", [1])


def test_number_is_a_finite_float_within_inclusive_bounds() -> None:
    for value in (0, 0.5, 1, np.float32(1), np.int64(0)):
        accepts(parse.number(0, 1), value, float(value))
    accepts(parse.number(0), 1e300, 1e300)
    accepts(parse.number(high=0), -1e300, -1e300)
    for too_large in (10**400, -(10**400)):  # for a float
        refuses(parse.number(), too_large, ValueError, f"option must be a finite number, not {too_large}")
    for value in (True, "1", None, 1j, [1.0]):
        refuses(parse.number(), value, TypeError, f"option must be a number, not {value!r} ({type(value).__name__})")


@pytest.mark.parametrize(
    ("low", "high", "outside", "bounds"),
    [
        (None, None, (), ""),
        (0.0, None, (-0.5,), " of at least 0"),
        (None, 0.0, (0.5,), " of at most 0"),
        (0.25, 2.0, (0, 2.5), " from 0.25 to 2"),
    ],
)
def test_refused_numbers_are_named_with_the_bounds(
    low: Any, high: Any, outside: tuple[float, ...], bounds: str
) -> None:
    for value in (*outside, float("inf"), float("-inf"), float("nan")):
        message = f"option must be a finite number{bounds}, not {value!r}"
        refuses(parse.number(low, high), value, ValueError, message)


def test_integer_is_an_int_within_inclusive_bounds() -> None:
    for value in (2, 5, np.int64(3), np.uint8(5)):
        accepts(parse.integer(2, 5), value, int(value))
    accepts(parse.integer(0), 10**30, 10**30)
    refuses(parse.integer(2, 5), 1, ValueError, "option must be at least 2, not 1")
    refuses(parse.integer(2, 5), 6, ValueError, "option must be at most 5, not 6")
    refuses(parse.integer(-3, 0), 1, ValueError, "option must be at most 0, not 1")
    for value in (True, 3.0, "3", None):
        message = f"option must be an integer, not {value!r} ({type(value).__name__})"
        refuses(parse.integer(2, 5), value, TypeError, message)


def test_string_is_text_or_a_path() -> None:
    accepts(parse.string, "runs", "runs")
    accepts(parse.string, Path("runs"), "runs")
    refuses(parse.string, b"runs", TypeError, "option must be text, not b'runs' (bytes)")


def test_unchecked_values_are_returned_as_they_are() -> None:
    value = [object()]
    assert parse.unchecked("option", value) is value


def test_device_is_a_name_a_number_or_a_torch_device() -> None:
    for value in ("cuda:1", 0, torch.device("cpu")):
        accepts(parse.device, value, value)
    for value in (True, None, 1.5):
        name = type(value).__name__
        message = f'option must be a device such as "cpu", "cuda", "cuda:1" or 0, not {value!r} ({name})'
        refuses(parse.device, value, TypeError, message)


@pytest.mark.parametrize(
    ("dtype", "short"), [(torch.float32, "fp32"), (torch.float16, "fp16"), (torch.bfloat16, "bf16")]
)
def test_dtype_is_a_torch_dtype_or_one_of_its_names(dtype: torch.dtype, short: str) -> None:
    for value in (dtype, str(dtype), str(dtype).removeprefix("torch.").upper(), short, short.upper()):
        accepts(parse.dtype, value, dtype)
    refuses(parse.dtype, "int8", ValueError, "option must be float32, float16 or bfloat16, not 'int8'")


def test_bits_select_a_dtype() -> None:
    for bits, dtype in ((16, torch.float16), (32, torch.float32), (None, None)):
        assert parse.dtype_from_bits("option", bits) is dtype
    message = "option must be 16 (half precision on a GPU) or 32 (the default), not 8"
    refuses(parse.dtype_from_bits, 8, ValueError, message)


def test_image_size_is_one_side_rounded_up_to_a_multiple_of_16(caplog: pytest.LogCaptureFixture) -> None:
    for value in (16, 512, MAX_INPUT_SIDE, [512], (512,), [512, 512], (512, 512), np.int64(64)):
        accepts(parse.image_size, value, int(np.ravel(value)[0]))
    assert not caplog.records
    for value, rounded in ((1, 16), (17, 32), ((1000, 1000), 1008), (np.uint8(250), 256)):
        accepts(parse.image_size, value, rounded)
    assert [record.message for record in caplog.records] == [
        f"option={side} is not a multiple of 16; using {rounded}"
        for side, rounded in ((1, 16), (17, 32), (1000, 1008), (250, 256))
    ]


def test_other_image_sizes_are_refused() -> None:
    for value in ((512, 256), (), (64, 64, 64)):
        message = f"option must be one number or two equal ones (the model's input is square), not {value!r}"
        refuses(parse.image_size, value, ValueError, message)
    for value in (True, 64.0, "64", (64, 64.0), None):
        message = f"option must be an integer, in pixels, not {value!r} ({type(value).__name__})"
        refuses(parse.image_size, value, TypeError, message)
    refuses(parse.image_size, 0, ValueError, "option must be at least 16, not 0")
    too_large = MAX_INPUT_SIDE + 1
    refuses(parse.image_size, too_large, ValueError, f"option must be at most {MAX_INPUT_SIDE}, not {too_large}")


def test_input_size_is_a_height_and_a_width_rounded_up_to_multiples_of_32(caplog: pytest.LogCaptureFixture) -> None:
    for value, size in ((64, (64, 64)), ((32, MAX_INPUT_SIDE), (32, MAX_INPUT_SIDE)), ([96, 64], (96, 64))):
        accepts(parse.input_size, value, size)
    assert not caplog.records
    for value, size in (((33, 64), (64, 64)), ((64, 70), (64, 96)), (1, (32, 32)), ((np.uint8(250), 32), (256, 32))):
        accepts(parse.input_size, value, size)
        assert all(type(side) is int for side in parse.input_size("option", value))
    assert [record.message.removeprefix("option=") for record in caplog.records[:3]] == [
        "(33, 64) is not a multiple of 32; using 64",
        "(64, 70) is not a multiple of 32; using (64, 96)",
        "1 is not a multiple of 32; using 32",
    ]


def test_other_input_sizes_are_refused() -> None:
    for value in (True, 64.0, "64", (64,), (64, 64, 64), (64, True), (64, 64.0), None):
        message = f"option must be an integer, in pixels, or (height, width), not {value!r} ({type(value).__name__})"
        refuses(parse.input_size, value, TypeError, message)
    for value in (0, (64, 0), (0, 64)):
        refuses(parse.input_size, value, ValueError, f"option must be at least 32, not {value!r}")
    for value in ((64, MAX_INPUT_SIDE + 1), (MAX_INPUT_SIDE + 1, 64)):
        refuses(parse.input_size, value, ValueError, f"option must be at most {MAX_INPUT_SIDE}, not {value!r}")


def test_class_ids_are_sorted_unique_ints() -> None:
    arrays = (np.array([40, 7, 0, 7]), torch.tensor([40, 7, 0]))
    for value in ([40, 7, 0, 7], (40, 0, 7), {7, 0, 40}, frozenset({7, 0, 40}), [np.int64(7), 0, 40], *arrays):
        accepts(parse.class_ids, value, (0, 7, 40))
        assert all(type(class_id) is int for class_id in parse.class_ids("option", value))
    accepts(parse.class_ids, range(2, 4), (2, 3))
    accepts(parse.class_ids, np.int64(3), (3,))
    accepts(parse.class_ids, [], ())
    for value in (-1, [0, -1], True, [True], 1.0, "person", np.array([0.0]), np.array([[0, 1]])):
        message = f"option must be a class id, or a list of them, not {value!r} ({type(value).__name__})"
        refuses(parse.class_ids, value, TypeError, message)
    accepts(parse.class_ids, 2**31 - 1, (2**31 - 1,))
    refuses(parse.class_ids, [3, 2**31], ValueError, f"option: class ids are at most {2**31 - 1}, not {2**31}")


def test_network_task_is_detect_or_segment() -> None:
    accepts(parse.network_task, "detect", "detect")
    accepts(parse.network_task, "segment", "segment")
    refuses(parse.network_task, "pose", ValueError, "option must be detect or segment, not 'pose'")


def test_task_is_always_segment(caplog: pytest.LogCaptureFixture) -> None:
    accepts(parse.task, "segment", "segment")
    assert not caplog.records
    accepts(parse.task, "pose", "segment")
    assert [record.message for record in caplog.records] == [
        "task='pose' has no effect; Segment Anything models only do 'segment'"
    ]
