"""Data sets with true masks, in any of four forms. Images and labels are read one image at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import rle
from ..formats import class_names, data_yaml, image_files, yolo_folder
from ..formats.coco_file import CocoFile
from ..sources.decode import read_image
from . import label_maps

ACCEPTED_FORMATS = (
    "accepted: a COCO .json file with images=<folder of its images>; a folder with images/ and masks/ (for each image "
    "a PNG of the same name whose pixels are object numbers, or 0 and 255 for one object); a folder with images/ and "
    "labels/ (for each image an .npz of the same name with the arrays labels and segments); a folder of YOLO's "
    "polygons (a .txt for each image, in labels/ with images/ beside it, beside the images, or with images=<their "
    "folder>); a data.yaml that says where the images of each split are"
)


@dataclass(frozen=True)
class Failure:
    """An object that could not be used, or a whole image or file if `object` is None."""

    image: str
    object: str | None
    reason: str


@dataclass(frozen=True)
class GroundTruthObject:
    """A true object. name: its number or position in the label file. rle: its mask, of the image's size."""

    name: str
    rle: rle.RLE


@dataclass
class Example:
    """One image and its true objects.

    pixels: BGR uint8 (H, W, 3), or None if the image can't be used. crowds: number of objects that were left out
    because they are marked as a crowd.
    """

    name: str
    path: Path
    pixels: NDArray[np.uint8] | None = None
    objects: list[GroundTruthObject] = field(default_factory=list)
    crowds: int = 0
    failures: list[Failure] = field(default_factory=list)


class MaskDataset:
    """Sequence of images with true masks. names: their paths relative to the folder of images."""

    def __init__(self, names: list[str], folder: Path) -> None:
        self.names = names
        self._image_folder = folder

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        """Read an image and its objects. What can't be read is listed in the example's `failures`."""
        name = self.names[index]
        example = Example(name, self._path(index))
        try:
            pixels = read_image(example.path)
            self._read(index, pixels.shape[:2], example)
        except (ValueError, OSError) as error:
            reason = str(error).removeprefix(f"{example.path}: ")
            return Example(name, example.path, failures=[Failure(name, None, reason)])
        example.pixels = pixels
        return example

    def _path(self, index: int) -> Path:
        """Return the path of an image."""
        return self._image_folder / self.names[index]

    def _read(self, index: int, size: tuple[int, int], example: Example) -> None:
        """Add the objects of an image of `size` = (height, width) to `example`; ValueError for unusable labels."""
        raise NotImplementedError

    def labelled_indices(self) -> list[int]:
        """Return the indices of the images that may have objects, without opening images or their label files.

        All other images certainly have none.
        """
        raise NotImplementedError

    def unmatched_label_files(self) -> Iterator[Failure]:
        """Yield a failure for each label file that belongs to no image."""
        return iter(())


class CocoDataset(MaskDataset):
    """A COCO file and the folder of its images."""

    def __init__(self, file: Path, folder: Path) -> None:
        self._coco_file = CocoFile(file, folder)
        # Tools on Windows write paths with backslashes.
        names = [self._coco_file.name(image_id).replace("\\", "/") for image_id in self._coco_file.image_ids]
        super().__init__(names, folder)

    def _path(self, index: int) -> Path:
        return self._coco_file.path(self._coco_file.image_ids[index], self._image_folder)

    def _read(self, index: int, size: tuple[int, int], example: Example) -> None:
        def report_failure(position: str, error: object) -> None:
            example.failures.append(Failure(example.name, position, str(error)))

        labels = self._coco_file.labels(self._coco_file.image_ids[index], report_failure)
        _check_size(labels.size, size, "the COCO file")
        for position, label in enumerate(labels.objects):
            if label.iscrowd:
                example.crowds += 1
            elif label.segmentation is None:
                report_failure(f"object {position}", "it has a box but no mask")
            else:
                try:
                    example.objects.append(GroundTruthObject(f"object {position}", label.segmentation.rle))
                except ValueError as error:
                    report_failure(f"object {position}", error)

    def labelled_indices(self) -> list[int]:
        return [
            index for index, image_id in enumerate(self._coco_file.image_ids) if self._coco_file.has_masks(image_id)
        ]


class YoloDataset(MaskDataset):
    """Images and their YOLO text files. An image without a text file has no objects.

    images: the folder that names are relative to. pairs: names and text files. unmatched: text files without an image.
    """

    def __init__(
        self, images: Path, pairs: Sequence[tuple[str, Path | None]], unmatched: Sequence[Failure] = ()
    ) -> None:
        self._label_files, self._unmatched = [file for _, file in pairs], unmatched
        super().__init__([name for name, _ in pairs], images)

    def _read(self, index: int, size: tuple[int, int], example: Example) -> None:
        file = self._label_files[index]
        for position, label in enumerate([] if file is None else yolo_folder.read_file(file, size)):
            if label.segmentation is None:
                example.failures.append(Failure(example.name, f"object {position}", "it has a box but no mask"))
            else:
                example.objects.append(GroundTruthObject(f"object {position}", label.segmentation.rle))

    def labelled_indices(self) -> list[int]:
        return [index for index, file in enumerate(self._label_files) if file is not None and file.stat().st_size > 0]

    def unmatched_label_files(self) -> Iterator[Failure]:
        return iter(self._unmatched)


class LabelMapDataset(MaskDataset):
    """A folder of images, and a folder of label maps with the same names: .png in `masks` or .npz in `labels`."""

    def __init__(self, images: Path, map_folder: Path, suffix: str) -> None:
        self._map_folder, self._suffix = map_folder, suffix
        by_stem = image_files.by_stem(images)
        self._maps = maps = {os.path.splitext(name)[0]: name for name in image_files.walk(map_folder, {suffix})}
        self._ambiguous = {name: names for names in by_stem.values() if len(names) > 1 for name in names}
        self._without_image = [maps[stem] for stem in sorted(maps.keys() - by_stem)]
        super().__init__(sorted(name for names in by_stem.values() for name in names), images)
        if maps.keys().isdisjoint(by_stem):
            raise ValueError(
                f"no image in {images} has a {suffix} file of its name in {map_folder}; {ACCEPTED_FORMATS}"
            )

    def _read(self, index: int, size: tuple[int, int], example: Example) -> None:
        if example.name in self._ambiguous:
            raise ValueError(f"its labels may belong to any of {', '.join(self._ambiguous[example.name])}")
        stem = os.path.splitext(example.name)[0]
        path = self._map_folder / self._maps.get(stem, stem + self._suffix)
        if not path.is_file():
            raise ValueError(f"it has no {path.name} in {path.parent}")
        if self._suffix == ".png":
            labels = label_maps.read_png(path)
            _check_size(labels.shape, size, path.name)
            values = label_maps.object_values(labels)
        else:
            labels, segments = label_maps.read_npz(path, size)
            example.crowds = segments.crowds
            values = segments.thing_values
        present_values = set(np.unique(labels).tolist())
        for value in values:
            if value in present_values:
                mask = np.equal(labels, value)
                example.objects.append(GroundTruthObject(str(value), rle.from_masks(mask[None])[0]))
            else:
                example.failures.append(Failure(example.name, str(value), f"no pixel of {path.name} has its number"))

    def labelled_indices(self) -> list[int]:
        stems = [os.path.splitext(name)[0] for name in self.names]
        return [index for index, stem in enumerate(stems) if stem in self._maps]

    def unmatched_label_files(self) -> Iterator[Failure]:
        for name in self._without_image:
            yield Failure(name, None, f"no image of its name in {self._image_folder}")


def _check_size(label_hw: Any, image_hw: tuple[int, int], source: str) -> None:
    if tuple(label_hw) != tuple(image_hw):
        raise ValueError(
            f"{source} says {label_hw[0]} x {label_hw[1]}, but the image is {image_hw[0]} x {image_hw[1]} (height x "
            "width)"
        )


def open_dataset(data: Any, images: Any = None, split: str = "val") -> MaskDataset:
    """Open the data set at `data`, in any of the forms `ACCEPTED_FORMATS` lists.

    images: folder of the images of a COCO file or of YOLO's labels. split: which images of a data.yaml.

    Raises TypeError for anything but paths, FileNotFoundError for a path that doesn't exist, and ValueError with the
    accepted forms for any other data.
    """
    for name, value in (("data", data), ("images", images)):
        if not isinstance(value, (str, os.PathLike)) and not (name == "images" and value is None):
            raise TypeError(f"{name} must be a path, not {type(value).__name__}; {ACCEPTED_FORMATS}")
    path = Path(os.path.expanduser(data))
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}; {ACCEPTED_FORMATS}")
    if path.is_file() and path.suffix.lower() in data_yaml.SUFFIXES:
        return _open_data_yaml(path, images, split)
    if path.is_file():
        return _open_coco(path, images)
    map_folders = [folder for folder in ("masks", "labels") if (path / folder).is_dir()]
    yolo_folder_path = path / "labels" if map_folders == ["labels"] else path
    if "masks" not in map_folders and _has_yolo_files(yolo_folder_path):
        image_folder = None if images is None else _existing_folder(images)
        return _open_yolo(*yolo_folder.find_folders(yolo_folder_path, image_folder))
    if images is not None:
        raise ValueError(
            f"images={os.fspath(images)!r} goes with a COCO file or a folder of YOLO's labels, but {path} is neither; "
            f"{ACCEPTED_FORMATS}"
        )
    if not (path / "images").is_dir() or not map_folders:
        entries = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise ValueError(f"{path} holds {entries}; {ACCEPTED_FORMATS}")
    if len(map_folders) > 1:
        raise ValueError(f"{path} holds both masks/ and labels/, but only one of them is accepted; {ACCEPTED_FORMATS}")
    return LabelMapDataset(path / "images", path / map_folders[0], ".png" if map_folders == ["masks"] else ".npz")


def _has_yolo_files(folder: Path) -> bool:
    """Return whether a folder holds YOLO label files: some .txt besides lists of class names, and no .npz."""
    names = [
        name for name in image_files.walk(folder, {".npz", ".txt"}) if Path(name).name not in class_names.FILE_NAMES
    ]
    return bool(names) and all(name.lower().endswith(".txt") for name in names)


def _open_yolo(labels: Path, images: Path) -> YoloDataset:
    unmatched: list[Failure] = []
    pairs = yolo_folder.pair_files(
        labels, images, lambda name, error: unmatched.append(Failure(name, None, str(error)))
    )
    if not any(file for _, file in pairs):
        raise ValueError(f"no image in {images} has a .txt file of its name in {labels}; {ACCEPTED_FORMATS}")
    return YoloDataset(images, pairs, unmatched)


def _open_data_yaml(path: Path, images: Any, split: str) -> YoloDataset:
    if images is not None:
        raise ValueError(f"images={os.fspath(images)!r} doesn't go with {path}, which says where the images are")
    unmatched: list[Failure] = []
    folder, pairs = data_yaml.read_split(
        path, split, lambda name, error: unmatched.append(Failure(name, None, str(error)))
    )
    if not any(file for _, file in pairs):
        raise ValueError(f"{path}: none of the {len(pairs)} images of {split} has a label file of its name")
    return YoloDataset(folder, pairs, unmatched)


def _existing_folder(images: Any) -> Path:
    folder = Path(os.path.expanduser(images))
    if not folder.is_dir():
        raise FileNotFoundError(f"images={os.fspath(images)!r}: no such folder")
    return folder


def _open_coco(path: Path, images: Any) -> MaskDataset:
    if path.suffix.lower() != ".json":
        raise ValueError(f"{path} is neither a .json file, a .yaml file nor a folder; {ACCEPTED_FORMATS}")
    if images is None:
        raise ValueError(f"{path}: give images=<folder of its images>; {ACCEPTED_FORMATS}")
    dataset = CocoDataset(path, _existing_folder(images))
    if not len(dataset):
        raise ValueError(f"{path} lists no images")
    return dataset
