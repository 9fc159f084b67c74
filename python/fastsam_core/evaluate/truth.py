"""Data sets with true masks: opened in any of three forms, read one image at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import rle
from ..formats import image_files
from ..formats.coco_file import CocoFile
from ..sources.decode import read_image
from . import label_maps

FORMS = (
    "accepted: a COCO .json file with images=<folder of its images>; a folder with images/ and masks/ (for each image "
    "a PNG of the same name whose pixels are object numbers, or 0 and 255 for one object); a folder with images/ and "
    "labels/ (for each image an .npz of the same name with the arrays labels and segments)"
)


@dataclass(frozen=True)
class Failure:
    """What could not be used: an object, or a whole image where `object` is None."""

    image: str
    object: str | None
    reason: str


@dataclass(frozen=True)
class TrueObject:
    """An object. name: its number or place in the file. rle: its mask, of the picture's size."""

    name: str
    rle: rle.RLE


@dataclass
class Example:
    """One image. pixels: BGR uint8 (H, W, 3), None where the image failed. crowds: objects marked so, left out."""

    name: str
    path: Path
    pixels: NDArray[np.uint8] | None = None
    objects: list[TrueObject] = field(default_factory=list)
    crowds: int = 0
    failures: list[Failure] = field(default_factory=list)


class DataSet:
    """Images with true masks, in order. `names` are theirs, below the folder of images."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self.names = names
        self._folder = folder

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        """Read an image and its objects; what can't be read is among its failures."""
        name = self.names[index]
        example = Example(name, self._folder / name)
        try:
            pixels = read_image(example.path)
            self._read(index, pixels.shape[:2], example)
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{example.path}: ")
            return Example(name, example.path, failures=[Failure(name, None, reason)])
        example.pixels = pixels
        return example

    def _read(self, index: int, size: tuple[int, int], example: Example) -> None:
        """Add the objects of a picture of `size` = (height, width); ValueError if that can't be done at all."""
        raise NotImplementedError

    def stray(self) -> Iterator[Failure]:
        """Files of the data set that belong to no image."""
        return iter(())


class CocoData(DataSet):
    """A COCO file and the folder of its images."""

    def __init__(self, file: Path, folder: Path) -> None:
        self._file = CocoFile(file)
        super().__init__([self._file.name(image_id) for image_id in self._file.image_ids], folder)

    def _read(self, index: int, size: tuple[int, int], example: Example) -> None:
        def fail(place: str, error: object) -> None:
            example.failures.append(Failure(example.name, place, str(error)))

        labels = self._file.labels(self._file.image_ids[index], fail)
        _check_size(labels.size, size, "the COCO file")
        for place, found in enumerate(labels.objects):
            if found.iscrowd:
                example.crowds += 1
            elif found.segmentation is None:
                fail(f"object {place}", "it has a box but no mask")
            else:
                try:
                    example.objects.append(TrueObject(f"object {place}", found.segmentation.rle))
                except ValueError as error:
                    fail(f"object {place}", error)


class FolderData(DataSet):
    """A folder of images, and one of label maps by the same names: PNG files in `masks`, .npz files in `labels`."""

    def __init__(self, images: Path, maps: Path, suffix: str) -> None:
        self._maps, self._suffix = maps, suffix
        by_stem = image_files.by_stem(images)
        found = {os.path.splitext(name)[0] for name in image_files.walk(maps, {suffix})}
        self._ambiguous = {name: names for names in by_stem.values() if len(names) > 1 for name in names}
        self._without_image = sorted(found - set(by_stem))
        super().__init__(sorted(name for names in by_stem.values() for name in names), images)
        if not found & set(by_stem):
            raise ValueError(f"no image in {images} has a {suffix} file of its name in {maps}; {FORMS}")

    def _read(self, index: int, size: tuple[int, int], example: Example) -> None:
        if example.name in self._ambiguous:
            raise ValueError(f"its labels may belong to any of {', '.join(self._ambiguous[example.name])}")
        path = self._maps / (os.path.splitext(example.name)[0] + self._suffix)
        if not path.is_file():
            raise ValueError(f"it has no {path.name} in {path.parent}")
        if self._suffix == ".png":
            labels = label_maps.read_png(path)
            _check_size(labels.shape, size, path.name)
            numbers = label_maps.numbers_of(labels)
        else:
            labels, segments = label_maps.read_npz(path, size)
            example.crowds = segments.crowds
            numbers = segments.things
        present = set(np.unique(labels).tolist())
        for number in numbers:
            if number in present:
                mask = np.equal(labels, number)
                example.objects.append(TrueObject(str(number), rle.from_masks(mask[None])[0]))
            else:
                example.failures.append(Failure(example.name, str(number), f"no pixel of {path.name} has its number"))

    def stray(self) -> Iterator[Failure]:
        for stem in self._without_image:
            yield Failure(stem + self._suffix, None, f"no image of its name in {self._folder}")


def _check_size(labels: Any, picture: tuple[int, int], where: str) -> None:
    if tuple(labels) != tuple(picture):
        raise ValueError(
            f"{where} says {labels[0]} x {labels[1]}, but the picture is {picture[0]} x {picture[1]} (height x width)"
        )


def open_data(data: Any, images: Any = None) -> DataSet:
    """The data set at `data`, in whichever form; `images` is the folder of a COCO file's images.

    ValueError, with the forms that are accepted, for anything else; FileNotFoundError where nothing is there.
    """
    for name, value in (("data", data), ("images", images)):
        if not isinstance(value, (str, os.PathLike)) and not (name == "images" and value is None):
            raise TypeError(f"{name} must be a path, not {type(value).__name__}; {FORMS}")
    path = Path(data).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}; {FORMS}")
    if path.is_file():
        return _open_coco(path, images)
    if images is not None:
        raise ValueError(f"images={os.fspath(images)!r} goes with a COCO file, but {path} is a folder; {FORMS}")
    kinds = [kind for kind in ("masks", "labels") if (path / kind).is_dir()]
    if not (path / "images").is_dir() or not kinds:
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise ValueError(f"{path} holds {found}; {FORMS}")
    if len(kinds) > 1:
        raise ValueError(f"{path} holds both masks/ and labels/: which are the true ones? {FORMS}")
    labels = path / kinds[0]
    if kinds == ["labels"] and not any(image_files.walk(labels, {".npz"})) and any(image_files.walk(labels, {".txt"})):
        raise ValueError(
            f"{labels} holds text files, as YOLO has them; make a COCO file of them first: fastsam convert "
            f"data={path} from=yolo to=coco output=labels.json; {FORMS}"
        )
    return FolderData(path / "images", labels, ".png" if kinds == ["masks"] else ".npz")


def _open_coco(path: Path, images: Any) -> DataSet:
    if path.suffix.lower() != ".json":
        raise ValueError(f"{path} is neither a .json file nor a folder; {FORMS}")
    if images is None:
        raise ValueError(f"{path}: say images=<folder of its images>; {FORMS}")
    folder = Path(images).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"images={os.fspath(images)!r}: no such folder")
    found = CocoData(path, folder)
    if not len(found):
        raise ValueError(f"{path} lists no images")
    return found
