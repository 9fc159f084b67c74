"""Tests image sources in memory: arrays, tensors, PIL images, encoded bytes, open files and iterators of them."""

from __future__ import annotations

import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastsam_core.sources import load_sources
from image_examples import BGR, RGB, encode, only, write


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (BGR, BGR),
        (BGR[::-1, ::2], BGR[::-1, ::2]),
        (np.asfortranarray(BGR), BGR),
        (np.dstack([BGR, BGR[:, :, :1]]), BGR),
        (BGR[:, :, 0], np.repeat(BGR[:, :, :1], 3, 2)),
        (BGR[:, :, :1], np.repeat(BGR[:, :, :1], 3, 2)),
        (BGR[:, :, 0] > 9, np.repeat(np.where(BGR[:, :, :1] > 9, 255, 0), 3, 2)),
    ],
)
def test_arrays_become_bgr_images(array: np.ndarray, expected: np.ndarray) -> None:
    before = array.copy()
    item = only(array)
    assert np.array_equal(item.image, expected)
    assert (item.path, load_sources(array).kind) == ("image0.jpg", "arrays")
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (BGR / 255, r"scale of a float64 array is ambiguous.*\* 255"),
        (BGR.astype(np.int64), r"int64; use array\.astype"),
        (BGR.astype(np.int16), r"not int16"),
        (BGR.astype(np.uint32), r"not uint32"),
        (BGR[None], r"batch: pass a list"),
        (BGR.transpose(2, 0, 1), r"channels-first"),
        (BGR[:, :, :2], r"1, 3 or 4 channels"),
        (BGR[0, 0], r"not \(3,\)"),
        (BGR[:0], r"no pixels"),
        (np.array(["a"]), r"not \(1,\)"),
        (np.empty((4, 4, 3), object), r"not object"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_sources(array)


def test_tensors_become_bgr_images() -> None:
    chw = torch.from_numpy(RGB).permute(2, 0, 1)
    for tensor in (chw, chw[None], chw / 255, (chw / 255).half(), (chw / 255).double(), torch.cat([chw, chw[:1]])):
        before = tensor.clone()
        assert np.array_equal(only(tensor).image, BGR)
        assert torch.equal(tensor, before)
    grey = np.repeat(BGR[:, :, 2:], 3, 2)
    assert np.array_equal(only(chw[0]).image, grey)
    assert np.array_equal(only(chw[:1].requires_grad_(False)).image, grey)
    assert np.array_equal(only((chw / 255).requires_grad_()).image, BGR)
    assert np.array_equal(only(chw > 9).image, np.where(BGR > 9, 255, 0))
    batch = torch.stack([chw, chw.flip(2)])
    items = list(load_sources(batch))
    assert [i.path for i in items] == ["image0.jpg", "image1.jpg"]
    assert np.array_equal(items[1].image, BGR[:, ::-1])


def test_float_tensor_rounds_to_nearest() -> None:
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0]).reshape(1, 2, 2)
    assert only(values).image[:, :, 0].ravel().tolist() == [0, 0, 1, 255]


def test_float_tensor_up_to_255_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    chw = torch.from_numpy(RGB).permute(2, 0, 1).float()
    for _ in range(2):
        assert np.array_equal(only(chw).image, BGR)
    (message,) = caplog.messages
    assert "values above 1" in message


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(20, 30, 3), r"channels-last"),
        (torch.zeros(20, 30, 4), r"channels-last"),
        (torch.zeros(1, 1, 3, 4, 4), r"\(B, 3, H, W\)"),
        (torch.zeros(3, 0, 4), r"no pixels"),
        (torch.zeros(0, 3, 4, 4), r"no pixels"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"not torch\.int64"),
        (torch.full((3, 4, 4), -0.5), r"span \[-0\.5, -0\.5\]"),
        (torch.full((3, 4, 4), 256.0), r"span"),
        (torch.full((3, 4, 4), float("nan")), r"span"),
    ],
)
def test_tensors_that_are_no_images_are_refused(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(load_sources(tensor))


def test_encoded_bytes_are_decoded() -> None:
    data = encode(RGB, "PNG")
    for given in (data, bytearray(data), memoryview(data), memoryview(data[::-1])[::-1], BytesIO(data)):
        assert np.array_equal(only(given).image, BGR)
    with pytest.raises(ValueError, match=r"image0\.jpg: not an image"):
        list(load_sources(b"hello, this is text"))


def test_binary_file_objects_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    with open(path, "rb") as file:
        source = load_sources(file)
        assert source.kind == "arrays"
        assert [np.array_equal(item.image, BGR) for item in [*source, *source]] == [True, True]
    with tempfile.NamedTemporaryFile() as named, tempfile.SpooledTemporaryFile() as spooled:
        for temporary in (named, spooled):
            temporary.write(path.read_bytes())
            assert np.array_equal(only(temporary).image, BGR)
    (tmp_path / "a.txt").write_text("text")
    for text in (tmp_path / "a.txt", path):
        with open(text, encoding="utf-8") as file, pytest.raises(ValueError, match="mode 'rb'"):
            list(load_sources(file))


def test_object_whose_read_gives_no_bytes_is_refused(tmp_path: Path) -> None:
    class Upload:
        """An upload object like those of some web frameworks, whose `seek` and `read` aren't those of a file."""

        def seek(self, place: int) -> None: ...

        def read(self) -> object:
            return ()

    with pytest.raises(ValueError, match="reading a Upload must give bytes; got tuple"):
        list(load_sources(Upload()))


def test_pil_image_keeps_its_file_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    with Image.open(path) as image:
        assert only(image).path == str(path)
    assert only(Image.fromarray(RGB)).path == "image0.jpg"


def test_iterator_is_read_one_item_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    asked = []

    def images() -> Any:
        for element in (BGR, path, tmp_path / "none.png", torch.from_numpy(RGB).permute(2, 0, 1)):
            asked.append(element)
            yield element

    source = load_sources(images())
    assert (source.kind, source.total, source.estimate_total(), bool(source)) == ("iterator", None, None, True)
    with pytest.raises(TypeError, match="not known"):
        len(source)
    items = iter(source)
    assert np.array_equal(next(items).image, BGR)
    assert len(asked) == 1
    rest = list(items)
    assert [(i.index, i.total, i.error is None) for i in rest] == [(1, None, True), (2, None, False), (3, None, True)]
    with pytest.raises(TypeError, match="5 is a camera number: pass it alone"):
        list(load_sources(iter([5])))


def test_none_in_an_iterator_is_an_unreadable_image() -> None:
    items = list(load_sources(iter([BGR, None, BGR])))
    assert [(i.index, i.path, i.image is None) for i in items] == [
        (0, "image0.jpg", False),
        (1, "image1.jpg", True),
        (2, "image2.jpg", False),
    ]
    assert "cv2.imread" in str(items[1].error)


def test_items_of_an_iterator_are_copied() -> None:
    buffer = np.zeros_like(BGR)

    def camera() -> Any:
        for value in (1, 2, 3):
            buffer[:] = value
            yield buffer

    assert [item.image.max() for item in list(load_sources(camera()))] == [1, 2, 3]


@pytest.mark.parametrize("tensor", [torch.empty(3, 4, 5, device="meta"), torch.zeros(3, 4, 5).to_sparse()])
def test_meta_and_sparse_tensors_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(TypeError, match=r"an image tensor must be a plain tensor, not a (meta|sparse)"):
        list(load_sources(tensor))
