"""`load_sources`: open anything that can be a source as one iterable of items."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO, IOBase, TextIOBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import option_parsers as parse
from .._log import hide_passwords, logger
from . import web
from .arrays import check_array, check_tensor, from_array, from_pil, from_tensor, is_pil
from .decode import decode_image, read_image
from .item import Item, Source
from .paths import (
    IMAGE_SUFFIXES,
    LIST_SUFFIXES,
    STREAM_SCHEMES,
    VIDEO_SUFFIXES,
    Entry,
    file_entry,
    folder_entries,
    glob_entries,
    is_url,
    list_entries,
    missing_file_error,
    suffix_of,
    text_entries,
    url_entry,
)
from .stream import stream_items
from .video import expected_frame_count, video_items

ACCEPTED = (
    "a path, folder, glob pattern, list file (.txt, .csv), URL, video, stream address, camera number, NumPy array "
    "(BGR), Pillow image, torch tensor (RGB), encoded bytes, a binary file object, or a list or iterator of these"
)
# A part of a source, such as a file: its name, and a function that returns an iterator over its items.
_LazyItems = tuple[str, Callable[[], Iterator[Item]]]


def load_sources(source: Any, *, vid_stride: int = 1, stream_buffer: bool = False) -> Source:
    """Open anything as a `Source`, an iterable of `Item`s with BGR uint8 (H, W, 3) images.

    source is one of:

    - a str or Path of an image, a video, a folder (images first, in natural order, without sub-folders), a glob pattern
      (`**` matches sub-folders), a list file (.txt, .csv; its paths are relative to itself or to the current folder) or
      a *.streams file;
    - an http(s) URL;
    - an rtsp, rtmp, tcp or udp address, or a camera number (int or digits), read by a background thread;
    - an ndarray (H, W[, C]) BGR, a Pillow image, or a torch tensor (B, 3, H, W) or (3, H, W) RGB;
    - an encoded image as bytes or a binary file object;
    - a list or tuple of these, except streams and cameras;
    - an iterator over these, consumed one element at a time; an element None counts as an unreadable image.

    Files and Pillow images are made upright by their EXIF orientation. vid_stride: take every `vid_stride`-th frame of
    videos and streams. stream_buffer: queue the frames of streams; by default only the latest frame is kept.

    This function raises TypeError for another type, ValueError for a value that can't be a source (such as an empty
    string or list, or a float array), and FileNotFoundError if nothing is found. For elements of an iterator, TypeError
    and ValueError are raised while iterating. Iterating over a single image, video or URL raises ValueError if it can't
    be decoded and ConnectionError if it can't be fetched. In a source of several, each file that can't be read is
    logged once and yields an `Item` with `image=None` and `error` set, and the iteration continues.
    """
    vid_stride = parse.integer(1)("vid_stride", vid_stride)
    if isinstance(source, bool) or source is None:
        raise TypeError(f"source is {source!r}; accepted: {ACCEPTED}")
    if isinstance(source, (int, np.integer)):
        return _stream_source([_check_camera_number(int(source))], str(source), vid_stride, stream_buffer)
    if isinstance(source, (str, os.PathLike)):
        return _string_source(_path_string(source), vid_stride, stream_buffer)
    if isinstance(source, (list, tuple)):
        return _sequence_source(source, vid_stride)
    if isinstance(source, Iterator) and not isinstance(source, IOBase):
        return Source("iterator", lambda: _iterate_elements(source, vid_stride))
    lazy_items = _in_memory_items(source, 0)
    return Source("arrays", lambda: _indexed_items(lazy_items, strict=len(lazy_items) == 1), total=len(lazy_items))


def _string_source(text: str, vid_stride: int, stream_buffer: bool) -> Source:
    if not text.strip():
        raise ValueError(f"source is an empty string; accepted: {ACCEPTED}")
    if text.isascii() and text.isdigit():
        return _stream_source([_check_camera_number(int(text))], text, vid_stride, stream_buffer)
    if text.lower().startswith(STREAM_SCHEMES):
        return _stream_source([text], text, vid_stride, stream_buffer)
    if is_url(text):
        return _url_source(text, vid_stride, stream_buffer)
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        return _entries_source("folder", folder_entries(path), os.path.abspath(path), vid_stride)
    if not os.path.lexists(path):
        if glob.has_magic(path):
            return _entries_source("images", glob_entries(path), path, vid_stride)
        if re.fullmatch(r"screen[\s\d]*", text.strip().lower()):  # Ultralytics: screen number, left, top, width, height
            raise ValueError("capturing the screen is not supported: save a screenshot and pass its path")
        if "://" in text or text.lower().replace("\\", "/").startswith(("http:/", "https:/", "rtsp:/")):
            hint = "" if "://" in text else "; pass it as str"  # Path collapses the two slashes of a URL into one
            address = hide_passwords(repr(text))
            raise ValueError(f"{address} is not a supported address (http, https, rtsp, rtmp, tcp, udp){hint}")
        raise missing_file_error(path)
    suffix = suffix_of(path)
    if suffix in LIST_SUFFIXES:
        return _entries_source("images", list_entries(path), os.path.abspath(path), vid_stride)
    if suffix == ".streams":
        return _stream_source(_read_stream_addresses(path), os.path.abspath(path), vid_stride, stream_buffer)
    return _entry_source(file_entry(path), vid_stride)


def _url_source(url: str, vid_stride: int, stream_buffer: bool) -> Source:
    entry = url_entry(url)
    if entry.kind == "image_url" and suffix_of(url) not in IMAGE_SUFFIXES:  # for example /video.cgi or /live.m3u8
        media = web.content_type(url)
        if media.startswith(("video/", "multipart/x-mixed-replace")) or "mpegurl" in media:
            return _stream_source([url], url, vid_stride, stream_buffer)
        if media in ("text/html", "application/xhtml+xml"):
            raise ValueError(f"{hide_passwords(url)} is a web page; pass the address of the image itself")
    return _entry_source(entry, vid_stride)


def _entry_source(entry: Entry, vid_stride: int) -> Source:
    is_video = entry.kind.startswith("video")
    return Source(
        "video" if is_video else "image",
        lambda: _indexed_items([_lazy_entry_items(entry, vid_stride)], strict=True),
        path=entry.location,
        total=None if is_video else 1,
        estimate_total=lambda: expected_frame_count(entry.location, vid_stride),
    )


def _entries_source(kind: Any, entries: list[Entry], path: str | None, vid_stride: int) -> Source:
    def estimate_total() -> int | None:
        counts = [
            expected_frame_count(entry.location, vid_stride) if entry.kind.startswith("video") else 1
            for entry in entries
        ]
        return None if any(count is None for count in counts) else sum(count or 0 for count in counts)

    has_videos = any(entry.kind.startswith("video") for entry in entries)
    lazy_items = [_lazy_entry_items(entry, vid_stride) for entry in entries]
    return Source(
        kind,
        lambda: _indexed_items(lazy_items),
        path=path,
        total=None if has_videos else len(lazy_items),
        estimate_total=estimate_total,
    )


def _sequence_source(elements: Sequence[Any], vid_stride: int) -> Source:
    if not elements:
        raise ValueError("source is an empty list")
    entries: list[Entry] = []
    lazy_items: list[_LazyItems] = []
    for index, element in enumerate(elements):
        try:
            element_entries = _element_entries(element)
        except (TypeError, ValueError) as error:
            raise type(error)(f"source[{index}]: {error}") from error
        if element_entries is None:
            lazy_items += _in_memory_items(element, len(lazy_items))
        else:
            entries += element_entries
            lazy_items += [_lazy_entry_items(entry, vid_stride) for entry in element_entries]
    if entries and len(entries) == len(lazy_items) and not any(entry.exists() for entry in entries):
        raise FileNotFoundError(
            f"none of the {len(entries)} files of the list exists; {missing_file_error(entries[0].location)}"
        )
    if len(entries) == len(lazy_items):
        return _entries_source("images", entries, None, vid_stride)
    has_videos = any(entry.kind.startswith("video") for entry in entries)
    return Source("arrays", lambda: _indexed_items(lazy_items), total=None if has_videos else len(lazy_items))


def _element_entries(element: Any) -> list[Entry] | None:
    """Return the entries of an element of a list or iterator, or None for an image in memory, after checking it."""
    if isinstance(element, (str, os.PathLike)):
        text = _path_string(element)
        if not text.strip():
            raise ValueError("an empty string")
        if text.lower().startswith(STREAM_SCHEMES) or suffix_of(text) == ".streams":
            raise ValueError(f"{hide_passwords(repr(text))} is a stream: pass it alone, or several in a *.streams file")
        try:
            return text_entries(text)
        except FileNotFoundError:
            # In a list, an empty folder or pattern is reported later, not fatal.
            return [file_entry(os.path.expanduser(text))]
    if isinstance(element, (int, np.integer)) and not isinstance(element, bool):
        raise TypeError(f"{element} is a camera number: pass it alone, or several in a *.streams file")
    _in_memory_items(element, 0)
    return None


def _in_memory_items(value: Any, first: int) -> list[_LazyItems]:
    """Return the lazy items of an image in memory, or of a batch of images. Only shapes and dtypes are checked now.

    first: number of the first image in `image<i>.jpg` names.
    """
    if isinstance(value, torch.Tensor):
        check_tensor(value)
        batch_images = list(value) if value.ndim == 4 else [value]
        return [(f"image{first + i}.jpg", _lazy_item(_first_image, image)) for i, image in enumerate(batch_images)]
    name = f"image{first}.jpg"
    if isinstance(value, np.ndarray):
        check_array(value)
        return [(name, _lazy_item(from_array, value))]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return [(name, _lazy_item(decode_image, value))]
    if isinstance(value, IOBase) or (hasattr(value, "read") and hasattr(value, "seek")):
        return [(name, _lazy_item(lambda: decode_image(_read_all_bytes(value))))]
    if is_pil(value):
        file = getattr(value, "filename", "")
        return [(os.path.abspath(file) if isinstance(file, str) and file else name, _lazy_item(from_pil, value))]
    raise TypeError(f"a {type(value).__name__} can't be a source; accepted: {ACCEPTED}")


def _read_all_bytes(file: Any) -> bytes:
    """Return all bytes of a binary file object, from its beginning if it is seekable."""
    if isinstance(file, BytesIO):
        return file.getvalue()
    # The temporary files in which web frameworks pass uploads aren't IOBase and lack `seekable` before Python 3.11.
    if not hasattr(file, "seekable") or file.seekable():
        file.seek(0)
    data = "" if isinstance(file, TextIOBase) else file.read()
    if isinstance(data, str):
        raise ValueError("a text file object can't be a source: open it with mode 'rb'")
    if not isinstance(data, bytes):
        raise ValueError(f"reading a {type(file).__name__} must give bytes; got {type(data).__name__}")
    return data


def _first_image(tensor: torch.Tensor) -> NDArray[np.uint8]:
    return from_tensor(tensor)[0]


def _lazy_item(decode: Callable[..., NDArray[np.uint8]], *args: Any) -> Callable[[], Iterator[Item]]:
    def items() -> Iterator[Item]:
        yield Item(decode(*args), "")

    return items


def _lazy_entry_items(entry: Entry, vid_stride: int) -> _LazyItems:
    return entry.location, lambda: _entry_items(entry, vid_stride)


def _entry_items(entry: Entry, vid_stride: int) -> Iterator[Item]:
    if entry.kind == "image":
        yield Item(read_image(entry.location), entry.location)
    elif entry.kind == "image_url":
        yield Item(decode_image(web.fetch(entry.location)), entry.location)
    elif entry.kind == "video":
        yield from video_items(entry.location, entry.location, vid_stride=vid_stride)
    else:
        with tempfile.TemporaryDirectory(prefix="fastsam-") as folder:
            file = os.path.join(folder, "video" + suffix_of(entry.location))
            with open(file, "wb") as handle:
                web.fetch_into(entry.location, handle, web.MAX_VIDEO_BYTES)
            yield from video_items(file, entry.location, vid_stride=vid_stride)


def _indexed_items(
    lazy_items: list[_LazyItems], *, strict: bool = False, first: int = 0, unknown_total: bool = False
) -> Iterator[Item]:
    """Yield the items of all parts of a source, with `path`, `index` and `total` set.

    A failing part raises if `strict`; else it is logged and yields one item with `error`. first: index of the first
    part. unknown_total: the total is unknown.
    """
    total = None if unknown_total else len(lazy_items)
    for position, (path, open_items) in enumerate(lazy_items):
        items = open_items()
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except (ValueError, OSError, MemoryError) as error:
                reason = str(error) or type(error).__name__
                if strict:
                    if isinstance(error, ValueError):
                        raise ValueError(f"{hide_passwords(path)}: {reason}") from error
                    raise
                logger.warning("skipped %s: %s", path, reason)
                yield Item(None, path, reason, None, first + position, total)
                break
            yield replace(item, path=path, index=first + position, total=total)


def _iterate_elements(elements: Iterator[Any], vid_stride: int) -> Iterator[Item]:
    first = 0
    for element in elements:
        # Copy arrays: a camera loop may refill one buffer while earlier frames wait for their batch or lie in results.
        element = element.copy() if isinstance(element, np.ndarray) else element
        if element is None:  # one unreadable file among many, as from a generator over cv2.imread(path)
            lazy_items = [(f"image{first}.jpg", _lazy_item(_raise_no_image))]
        elif (entries := _element_entries(element)) is None:
            lazy_items = _in_memory_items(element, first)
        else:
            lazy_items = [_lazy_entry_items(entry, vid_stride) for entry in entries]
        yield from _indexed_items(lazy_items, first=first, unknown_total=True)
        first += len(lazy_items)


def _raise_no_image() -> NDArray[np.uint8]:
    raise ValueError("None instead of an image, as cv2.imread returns for a file that it can't read")


def _stream_source(addresses: list[int | str], path: str, vid_stride: int, stream_buffer: bool) -> Source:
    return Source(
        "stream", lambda: stream_items(addresses, vid_stride=vid_stride, stream_buffer=stream_buffer), path=path
    )


def _read_stream_addresses(path: str) -> list[int | str]:
    """Return the streams in a *.streams file: addresses, camera numbers, or paths of videos relative to the file.

    Lines that start with `#` are comments. Raises ValueError if the file names no stream, or something else than these;
    FileNotFoundError if a video is missing.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list of streams: it is not UTF-8 text ({error})") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ValueError(f"{path} names no stream: one address, camera number or video file per line is needed")
    return [_parse_stream_address(line, os.path.dirname(os.path.abspath(path))) for line in lines]


def _parse_stream_address(line: str, base: str) -> int | str:
    if line.isascii() and line.isdigit():
        return _check_camera_number(int(line))
    if "://" in line:
        return line
    candidates = os.path.join(base, line), os.path.expanduser(line)
    path = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if path is None:
        raise missing_file_error(os.path.join(base, line))
    if suffix_of(path) not in VIDEO_SUFFIXES:
        raise ValueError(f"{line!r} is neither an address, a camera number nor a video file")
    return os.path.abspath(path)


def _check_camera_number(number: int) -> int:
    if not 0 <= number < 1000:
        raise ValueError(f"a camera number is 0, 1, 2..., not {number}")
    return number


def _path_string(source: str | os.PathLike[Any]) -> str:
    text = os.fspath(source)
    return os.fsdecode(text) if isinstance(text, bytes) else text
