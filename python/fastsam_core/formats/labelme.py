"""LabelMe files: one JSON object per image, with polygons that can be edited by hand."""

from __future__ import annotations

import base64
import os
from pathlib import Path, PurePosixPath
from typing import Any

from .. import option_parsers as parse
from .._files import relative_posix
from . import image_files
from ._writing import FolderWriter, json_text, round_for_json, safe_relative_path
from .labels import ImageLabels

# Version of the format; LabelMe warns only about files of another major version.
VERSION = "5.5.0"
_DECIMALS = 2


class LabelMeWriter(FolderWriter):
    """A writer of `<image>.json` per image. LabelMe looks for the image beside the label file.

    A shape is one part of an object: a polygon along pixel edges, in which holes are joined to the outer border by
    bridges, pairs of edges that run there and back. The parts of one object share a `group_id`, its number among the
    image's objects from 1 on; an object of one part has none. Holes are not shapes of their own, because LabelMe and
    its converters unite the shapes of a group, which would fill them. An object without a mask is a rectangle. Crowds,
    and masks without pixels, are left out. Scores are written as `score`.

    images: the folder of the images. With it, `imagePath` is the path to the image there, otherwise its bare name.
    embed_images: put the image file's bytes into `imageData`, rotated upright by EXIF, since LabelMe ignores EXIF in
    embedded images; needs `images`. tolerance: see `YoloWriter`.
    """

    suffix = ".json"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        images: str | os.PathLike[str] | None = None,
        embed_images: bool = False,
        tolerance: float = 0.0,
    ) -> None:
        self.embed_images = parse.boolean("embed_images", embed_images)
        if self.embed_images and images is None:
            raise ValueError("embed_images needs images=<their folder>")
        self.tolerance = parse.number(0)("tolerance", tolerance)
        super().__init__(folder)
        self.images = None if images is None else Path(images)

    def render(self, labels: ImageLabels, target: Path) -> tuple[bytes, int]:
        shapes: list[dict[str, Any]] = []
        num_objects = 0
        for index, obj in enumerate(labels.objects):
            if obj.iscrowd or obj.is_empty:
                continue
            if obj.segmentation is None:
                x1, y1, x2, y2 = obj.xyxy()
                parts, shape_type = [[[x1, y1], [x2, y2]]], "rectangle"
            else:
                parts, shape_type = [ring.tolist() for ring in obj.segmentation.to_polygons(self.tolerance)], "polygon"
            for points in parts:
                shape: dict[str, Any] = {
                    "label": labels.name_of(obj.class_id),
                    "points": [[round_for_json(x, _DECIMALS), round_for_json(y, _DECIMALS)] for x, y in points],
                    "group_id": index + 1 if len(parts) > 1 else None,
                    "description": "",
                    "shape_type": shape_type,
                    "flags": {},
                    "mask": None,
                }
                if obj.score is not None:
                    shape["score"] = obj.score
                shapes.append(shape)
            num_objects += 1
        image_path, image_data = self._image_path_and_data(labels.file_name, target.parent)
        document: dict[str, Any] = {
            "version": VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": image_path,
            "imageData": image_data,
            "imageHeight": labels.height,
            "imageWidth": labels.width,
        }
        return (json_text(document) + "\n").encode(), num_objects

    def _image_path_and_data(self, file_name: str, folder: Path) -> tuple[str, str | None]:
        """Return the image's path relative to the label file's folder, and its bytes in base64 or None."""
        if self.images is None:
            return PurePosixPath(file_name.replace("\\", "/")).name, None
        path = self.images / safe_relative_path(file_name)
        data = base64.b64encode(image_files.upright_bytes(path)).decode("ascii") if self.embed_images else None
        return relative_posix(folder, path), data
