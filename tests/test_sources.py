"""Pictures from files, folders, patterns, lists, addresses and memory, as BGR arrays with names."""

from __future__ import annotations

import logging
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fastsam_core.sources import Item, decode_image, load_sources, read_image, web
from local_server import reply, serve

RGB = np.random.RandomState(0).randint(0, 256, (20, 30, 3), np.uint8)
BGR = RGB[:, :, ::-1].copy()


def encode(image: Any, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, image: Any = RGB, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image, kind))
    return path


def only(source: Any) -> Item:
    [item] = load_sources(source)
    assert item.error is None and item.image is not None
    assert item.image.dtype == np.uint8 and item.image.flags.c_contiguous
    return item


def names(source: Any) -> list[str]:
    return [os.path.basename(item.path) for item in load_sources(source)]


# --- one file


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".weird", ""])
def test_file(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"Bild ä中{suffix}")
    for given in (path, str(path)):
        source = load_sources(given)
        assert (source.kind, len(source), source.path) == ("image", 1, str(path))
        item = only(given)
        assert (item.path, item.frame, item.index, item.total, item.kind) == (str(path), None, 0, 1, "image")
        assert np.array_equal(item.image, BGR)


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a" / "b.png")
    monkeypatch.chdir(tmp_path / "a")
    assert only("b.png").path == str(tmp_path / "a" / "b.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert only("~/a/b.png").path == str(tmp_path / "a" / "b.png")


def test_source_can_be_iterated_twice(tmp_path: Path) -> None:
    with load_sources(write(tmp_path / "a.png")) as source:
        assert len(list(source)) == len(list(source)) == 1


def test_missing_file_suggests_close_names(tmp_path: Path) -> None:
    write(tmp_path / "zidane.jpg")
    with pytest.raises(FileNotFoundError, match=r"zidan\.jpg.*did you mean zidane\.jpg"):
        load_sources(tmp_path / "zidan.jpg")
    with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
        load_sources(tmp_path / "nowhere" / "a.jpg")


def test_unreadable_file_names_the_file_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for content, reason in (
        (b"", "empty"),
        (b"hello", "not a picture"),
        (b"<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (encode(RGB, "JPEG")[:400], "damaged"),
    ):
        path.write_bytes(content)
        source = load_sources(path)
        with pytest.raises(ValueError, match=f"a.jpg: .*{reason}"):
            list(source)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000"])
def test_truncated_files_are_errors(kind: str) -> None:
    data = encode(RGB, kind)
    for length in (20, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ValueError, match="damaged"):
            decode_image(data[:length])


def test_no_other_formats_reach_a_decoder() -> None:
    for kind in ("PPM", "PCX", "TGA", "ICO", "SGI"):
        with pytest.raises(ValueError, match="not a picture"):
            decode_image(encode(RGB, kind))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a POSIX thing")
def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="not a regular file"):
        list(load_sources(tmp_path / "a.jpg"))


# --- decoding


def test_jpeg_pixels_are_those_of_opencv() -> None:
    smooth = cv2.GaussianBlur(np.repeat(np.repeat(RGB, 5, 0), 5, 1), (9, 9), 3)
    data = encode(smooth, "JPEG", quality=80)
    assert np.array_equal(decode_image(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def test_modes() -> None:
    grey = RGB[:, :, 0]
    alpha = np.dstack([RGB, grey])
    as_bgr = np.repeat(grey[:, :, None], 3, 2)
    deep = (grey.astype(np.uint16) << 8) + 77
    palette = Image.fromarray(RGB).quantize(32)
    cases: list[tuple[Any, str, np.ndarray]] = [
        (grey, "PNG", as_bgr),
        (alpha, "PNG", BGR),
        (Image.fromarray(np.dstack([grey, grey]), "LA"), "PNG", as_bgr),
        (deep, "PNG", as_bgr),
        (deep, "TIFF", as_bgr),
        (Image.fromarray(deep.astype(np.int32)), "TIFF", as_bgr),
        (Image.fromarray(grey > 127), "PNG", np.where(as_bgr > 127, 255, 0)),
        (palette, "PNG", np.asarray(palette.convert("RGB"))[:, :, ::-1]),
        (Image.fromarray(RGB).convert("CMYK"), "TIFF", BGR),
    ]
    for image, kind, expected in cases:
        pil = image if isinstance(image, Image.Image) else Image.fromarray(image)
        for result in (decode_image(encode(image, kind)), only(pil).image):
            assert np.array_equal(result, expected), (pil.mode, kind)


def test_sixteen_bit_colour_keeps_the_high_byte() -> None:
    deep = (BGR.astype(np.uint16) << 8) + 200
    assert np.array_equal(decode_image(cv2.imencode(".png", deep)[1].tobytes()), BGR)
    assert np.array_equal(only(deep).image, BGR)
    assert np.array_equal(only(deep.astype(">u2")).image, BGR)


@pytest.mark.parametrize(
    "image", [Image.new("F", (4, 4), 0.5), Image.fromarray(np.full((4, 4), 70_000, np.int32))], ids=["F", "I"]
)
def test_pil_images_of_unknown_scale(image: Image.Image) -> None:
    with pytest.raises(ValueError, match="convert it to 8 bit"):
        list(load_sources(image))
    with pytest.raises(ValueError, match="convert it to 8 bit"):
        decode_image(encode(image, "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    # Blocks survive JPEG: what is compared is which corner is which colour.
    blocks = np.kron(np.array([[10, 90], [170, 250], [60, 210]], np.uint8), np.ones((8, 8), np.uint8))
    stored = {
        1: blocks,
        2: blocks[:, ::-1],
        3: blocks[::-1, ::-1],
        4: blocks[::-1],
        5: blocks.T,
        6: np.rot90(blocks, 1),
        7: blocks[::-1, ::-1].T,
        8: np.rot90(blocks, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.repeat(np.ascontiguousarray(stored)[:, :, None], 3, 2))
    data = encode(image, kind, exif=exif)
    for result in (decode_image(data), only(Image.open(BytesIO(data))).image):
        assert result.shape == (24, 16, 3)
        assert np.abs(result[4::8, 4::8, 0].astype(int) - blocks[4::8, 4::8]).max() <= 8


def test_damaged_exif_leaves_the_picture() -> None:
    data = encode(RGB, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decode_image(data), BGR)


def test_pixel_limit_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    # A header that promises 2^31 x 2^31 pixels, and no data at all.
    bomb = bytearray(encode(RGB, "BMP")[:54])
    bomb[18:26] = (50_000).to_bytes(4, "little") * 2
    with pytest.raises(ValueError, match=r"50000 x 50000 = 2,500,000,000 pixels.*FASTSAM_MAX_PIXELS"):
        decode_image(bytes(bomb))
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "599")
    with pytest.raises(ValueError, match="the limit of 599"):
        decode_image(encode(RGB, "JPEG"))
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "600")
    assert decode_image(encode(RGB, "JPEG")).shape == (20, 30, 3)
    monkeypatch.setenv("FASTSAM_MAX_PIXELS", "many")
    with pytest.raises(ValueError, match="FASTSAM_MAX_PIXELS='many'"):
        decode_image(encode(RGB, "JPEG"))


# --- folders, patterns, lists


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("img10.png", "img2.png", "IMG1.JPG", ".hidden.png", "sub/deep.png"):
        write(tmp_path / "pics" / name)
    (tmp_path / "pics" / "notes.md").write_text("no picture")
    return tmp_path / "pics"


def test_folder(folder: Path) -> None:
    source = load_sources(folder)
    assert (source.kind, len(source), source.path) == ("folder", 3, str(folder))
    items = list(source)
    assert [os.path.basename(i.path) for i in items] == ["IMG1.JPG", "img2.png", "img10.png"]
    assert [(i.index, i.total) for i in items] == [(0, 3), (1, 3), (2, 3)]


def test_bad_pictures_are_reported_and_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "img2.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "img3.png").symlink_to(folder / "gone.png")
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        items = list(load_sources(folder))
    assert [i.error is None for i in items] == [i.image is not None for i in items] == [True, False, False, True]
    assert "damaged PNG" in str(items[1].error) and "no such file" in str(items[2].error)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        f"skipped {folder / 'img2.png'}",
        f"skipped {folder / 'img3.png'}",
    ]


def test_folder_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("")
    with pytest.raises(FileNotFoundError, match=r"no picture or video in the folder .*1 other entries.*\*\*"):
        load_sources(tmp_path)


def test_patterns(folder: Path) -> None:
    assert names(f"{folder}/img*.png") == ["img2.png", "img10.png"]
    assert names(f"{folder}/*") == ["IMG1.JPG", "img2.png", "img10.png"]
    assert names(f"{folder}/**/*.png") == ["img2.png", "img10.png", "deep.png"]
    assert names(f"{folder}/img[0-9].png") == ["img2.png"]
    with pytest.raises(FileNotFoundError, match="nothing matches"):
        load_sources(f"{folder}/*.tif")
    with pytest.raises(FileNotFoundError, match="1 entries match, but none is a picture"):
        load_sources(f"{folder}/*.md")


def test_file_whose_name_looks_like_a_pattern(folder: Path) -> None:
    write(folder / "a[1].png")
    assert names(f"{folder}/a[1].png") == ["a[1].png"]


def test_list_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "cwd" / "here.png")
    monkeypatch.chdir(tmp_path / "cwd")
    listed = folder / "list.txt"
    listed.write_text(f"\ufeffimg2.png\n\n  here.png \nmissing.png\n{folder / 'IMG1.JPG'}\nsub\n*10.png\n", "utf-8")
    items = list(load_sources(listed))
    assert [Path(i.path).name for i in items] == [
        "img2.png", "here.png", "missing.png", "IMG1.JPG", "deep.png", "img10.png"
    ]  # fmt: skip
    assert [i.error is None for i in items] == [True, True, False, True, True, True]


def test_csv_list_takes_the_first_column(folder: Path) -> None:
    (folder / "list.csv").write_text('image,label\n"img2.png",3\nimg10.png,4\n')
    assert names(folder / "list.csv") == ["img2.png", "img10.png"]


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", FileNotFoundError, "names no file"),
        (b"x.png\ny.png\n", FileNotFoundError, "none of the 2 files"),
        (b"\xff\xfe\xfa", ValueError, "not UTF-8"),
        (b"list.txt\n", ValueError, "nested"),
    ],
)
def test_bad_list_files(tmp_path: Path, content: bytes, error: type[Exception], message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        load_sources(tmp_path / "list.txt")


# --- memory


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
def test_arrays(array: np.ndarray, expected: np.ndarray) -> None:
    before = array.copy()
    item = only(array)
    assert np.array_equal(item.image, expected)
    assert (item.path, load_sources(array).kind) == ("image0.jpg", "arrays")
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (BGR / 255, r"float64 array leaves the scale open.*\* 255"),
        (BGR.astype(np.int64), r"int64; use array\.astype"),
        (BGR[None], r"batch: pass a list"),
        (BGR.transpose(2, 0, 1), r"channels-first"),
        (BGR[:, :, :2], r"1, 3 or 4 channels"),
        (BGR[0, 0], r"not \(3,\)"),
        (BGR[:0], r"no pixels"),
        (np.array(["a"]), r"not \(1,\)"),
        (np.empty((4, 4, 3), object), r"not object"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_sources(array)


def test_tensors() -> None:
    chw = torch.from_numpy(RGB).permute(2, 0, 1)
    for tensor in (chw, chw[None], chw / 255, (chw / 255).half(), (chw / 255).double(), torch.cat([chw, chw[:1]])):
        before = tensor.clone()
        assert np.array_equal(only(tensor).image, BGR)
        assert torch.equal(tensor, before)
    grey = np.repeat(BGR[:, :, 2:], 3, 2)
    assert np.array_equal(only(chw[0]).image, grey)
    assert np.array_equal(only(chw[:1].requires_grad_(False)).image, grey)
    assert np.array_equal(only((chw / 255).requires_grad_()).image, BGR)
    batch = torch.stack([chw, chw.flip(2)])
    items = list(load_sources(batch))
    assert [i.path for i in items] == ["image0.jpg", "image1.jpg"]
    assert np.array_equal(items[1].image, BGR[:, ::-1])


def test_float_tensor_rounds_to_nearest() -> None:
    values = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0]).reshape(1, 2, 2)
    assert only(values).image[:, :, 0].ravel().tolist() == [0, 0, 1, 255]


def test_float_tensor_up_to_255_is_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    chw = torch.from_numpy(RGB).permute(2, 0, 1).float()
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        assert np.array_equal(only(chw).image, BGR)
        assert np.array_equal(only(chw).image, BGR)
    assert len([r for r in caplog.records if "values above 1" in r.getMessage()]) <= 1


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(20, 30, 3), r"channels-last"),
        (torch.zeros(1, 1, 3, 4, 4), r"\(B, 3, H, W\)"),
        (torch.zeros(3, 0, 4), r"no pixels"),
        (torch.zeros(0, 3, 4, 4), r"no pixels"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"not torch\.int64"),
        (torch.full((3, 4, 4), -0.5), r"span \[-0\.5, -0\.5\]"),
        (torch.full((3, 4, 4), 256.0), r"span"),
        (torch.full((3, 4, 4), float("nan")), r"span"),
    ],
)
def test_tensors_that_are_no_pictures(tensor: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(load_sources(tensor))


def test_encoded_bytes() -> None:
    data = encode(RGB, "PNG")
    for given in (data, bytearray(data), memoryview(data), BytesIO(data)):
        assert np.array_equal(only(given).image, BGR)
    with pytest.raises(ValueError, match=r"image0\.jpg: not a picture"):
        list(load_sources(b"hello, this is text"))


def test_binary_file_objects(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    with open(path, "rb") as file:
        source = load_sources(file)
        assert source.kind == "arrays"
        assert [np.array_equal(item.image, BGR) for item in [*source, *source]] == [True, True]
    (tmp_path / "a.txt").write_text("text")
    with open(tmp_path / "a.txt", encoding="utf-8") as file, pytest.raises(ValueError, match="mode 'rb'"):
        list(load_sources(file))


def test_pil_image_keeps_its_file_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    with Image.open(path) as image:
        assert only(image).path == str(path)
    assert only(Image.fromarray(RGB)).path == "image0.jpg"


def test_list_of_everything(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "a.png")
    chw = torch.from_numpy(RGB).permute(2, 0, 1)
    given = [BGR, str(path), Image.fromarray(RGB), chw, encode(RGB, "PNG"), path, folder, torch.stack([chw, chw])]
    source = load_sources(given)
    assert (source.kind, len(source)) == ("arrays", 11)
    items = list(source)
    assert [i.index for i in items] == list(range(11))
    assert all(i.total == 11 and np.array_equal(i.image, BGR) for i in items if not i.path.endswith("JPG"))
    assert [os.path.basename(i.path) for i in items] == [
        "image0.jpg", "a.png", "image2.jpg", "image3.jpg", "image4.jpg", "a.png",
        "IMG1.JPG", "img2.png", "img10.png", "image9.jpg", "image10.jpg",
    ]  # fmt: skip
    assert load_sources(tuple(given)).total == 11


def test_list_goes_on_after_bad_files(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "a.png"), tmp_path / "b.png"
    bad.write_bytes(b"no")
    (tmp_path / "empty").mkdir()
    items = list(load_sources([bad, good, tmp_path / "none.png", b"no", tmp_path / "empty", good]))
    assert [i.error is None for i in items] == [False, True, False, False, False, True]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([], ValueError, "empty list"),
        ([BGR, None], TypeError, r"source\[1\]: a NoneType"),
        ([BGR, 0], TypeError, r"source\[1\]: a int"),
        ([BGR / 255], ValueError, r"source\[0\]: .*scale"),
        ([BGR, ""], ValueError, r"source\[1\]: an empty string"),
        ([BGR, "rtsp://camera"], ValueError, r"source\[1\]: .*\.streams"),
        ([[BGR]], TypeError, r"source\[0\]: a list"),
        (["/nowhere/a.png", "/nowhere/b.png"], FileNotFoundError, "none of the 2 files"),
    ],
)
def test_bad_lists(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_sources(given)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, TypeError, "source is None; accepted: a path"),
        (True, TypeError, "source is True"),
        ("", ValueError, "empty string"),
        ("  ", ValueError, "empty string"),
        (-1, ValueError, "camera number"),
        (1.5, TypeError, "a float"),
        ({"a": 1}, TypeError, "a dict"),
        ({BGR.tobytes()}, TypeError, "a set"),
        ("screen 0", ValueError, "screen"),
        ("s3://bucket/a.png", ValueError, "no address that is known"),
        (Path("https://example.com/a.png"), ValueError, "pass it as str"),
        ("a\0b.png", FileNotFoundError, "no such file"),
        ("x" * 5000, FileNotFoundError, "no such file"),
    ],
)
def test_what_is_no_source(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_sources(given)


def test_iterator_is_taken_one_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    asked = []

    def pictures() -> Any:
        for element in (BGR, path, tmp_path / "none.png", torch.from_numpy(RGB).permute(2, 0, 1)):
            asked.append(element)
            yield element

    source = load_sources(pictures())
    assert (source.kind, source.total, source.expected(), bool(source)) == ("iterator", None, None, True)
    with pytest.raises(TypeError, match="not known"):
        len(source)
    items = iter(source)
    assert np.array_equal(next(items).image, BGR)
    assert len(asked) == 1
    rest = list(items)
    assert [(i.index, i.total, i.error is None) for i in rest] == [(1, None, True), (2, None, False), (3, None, True)]
    with pytest.raises(TypeError, match="a int can't be a source"):
        list(load_sources(iter([5])))


def test_frames_of_an_iterator_are_their_own() -> None:
    buffer = np.zeros_like(BGR)

    def camera() -> Any:
        for value in (1, 2, 3):
            buffer[:] = value
            yield buffer

    assert [item.image.max() for item in list(load_sources(camera()))] == [1, 2, 3]


@pytest.mark.parametrize("tensor", [torch.empty(3, 4, 5, device="meta"), torch.zeros(3, 4, 5).to_sparse()])
def test_tensors_without_pixels_in_order(tensor: torch.Tensor) -> None:
    with pytest.raises(TypeError, match=r"an image tensor must be a plain tensor, not a (meta|sparse)"):
        list(load_sources(tensor))


def test_closing_stops_the_iteration(folder: Path) -> None:
    source = load_sources(folder)
    seen = []
    for item in source:
        seen.append(item)
        source.close()
    assert len(seen) == 1


@pytest.mark.parametrize(("stride", "error"), [(0, ValueError), (-2, ValueError), (1.5, TypeError), (True, TypeError)])
def test_stride_is_checked(stride: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="vid_stride"):
        load_sources(BGR, vid_stride=stride)


# --- addresses


def test_urls(folder: Path) -> None:
    data = encode(RGB, "PNG")

    def answer(handler: Any) -> None:
        if handler.path.startswith("/missing"):
            reply(handler, b"no", 404)
        elif handler.path.startswith("/page"):
            reply(handler, b"<html>", headers={"Content-Type": "text/html"})
        elif handler.path.startswith("/moved"):
            reply(handler, b"", 302, headers={"Location": "/a.png"})
        elif handler.path.startswith("/short"):
            reply(handler, data[:50], announce=len(data))
        else:
            reply(handler, data, headers={"Content-Type": "image/png"})

    with serve(answer) as address:
        for url in (f"{address}/a.png", f"{address}/a.png?size=3#x", f"{address}/moved.png", f"{address}/photo"):
            item = only(url)
            assert item.path == url and np.array_equal(item.image, BGR)
        with pytest.raises(ConnectionError, match="answers 404"):
            list(load_sources(f"{address}/missing.png"))
        with pytest.raises(ValueError, match="web page"):
            list(load_sources(f"{address}/page.png"))
        with pytest.raises(ValueError, match="web page"):
            load_sources(f"{address}/page")
        with pytest.raises(ConnectionError, match="broke off after 50"):
            list(load_sources(f"{address}/short.png"))
        items = list(load_sources([f"{address}/missing.png", f"{address}/a.png"]))
        assert [i.error is None for i in items] == [False, True]
        (folder / "list.txt").write_text(f"{address}/a.png\nimg2.png\n")
        assert all(i.error is None for i in load_sources(folder / "list.txt"))
    with pytest.raises(ConnectionError, match="can't be reached"):
        list(load_sources(f"{address}/a.png"))


def test_url_limits() -> None:
    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    with serve(endless) as address:
        with pytest.raises(ValueError, match="more than the limit of 1,000,000"):
            web.fetch(f"{address}/a.png", 1_000_000)
        with pytest.raises(ConnectionError, match="within 0 seconds"):
            web.fetch(f"{address}/a.png", deadline=0)
    with (
        serve(lambda handler: reply(handler, b"xx", announce=10**12)) as address,
        pytest.raises(ValueError, match=r"holds 1,000,000,000,000 bytes"),
    ):
        web.fetch(f"{address}/a.png")


def test_a_server_that_trickles_has_a_deadline() -> None:
    import time

    sent = []

    def trickle(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "300")
        handler.end_headers()
        try:
            while len(sent) < 300:
                handler.wfile.write(b"x")
                sent.append(1)
                time.sleep(0.02)
        except OSError:
            pass

    with serve(trickle) as address:
        with pytest.raises(ConnectionError, match=r"within 0\.2 seconds"):
            web.fetch(f"{address}/a.png", deadline=0.2)
        assert len(sent) < 200, "it waited for the whole answer"


def test_silent_server_times_out() -> None:
    import threading

    done = threading.Event()
    with serve(lambda handler: done.wait(10) and None) as address:
        with pytest.raises(ConnectionError, match="timed out"):
            web.fetch(f"{address}/a.png", timeout=0.1)
        done.set()


def test_redirects_cannot_reach_local_files(tmp_path: Path) -> None:
    path = write(tmp_path / "secret.png")
    with (
        serve(lambda handler: reply(handler, b"", 302, headers={"Location": path.as_uri()})) as address,
        pytest.raises(ConnectionError, match="302"),
    ):
        list(load_sources(f"{address}/a.png"))


def test_read_image_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_image(tmp_path / "a.png")
    assert np.array_equal(read_image(write(tmp_path / "a.png")), BGR)
