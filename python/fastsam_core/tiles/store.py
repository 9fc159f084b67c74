"""Storage of finished tiles, one file each, from which an interrupted run resumes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__, _locks
from .._files import atomic_path
from .._log import logger
from ..annotate.manifest import fingerprint
from .grid import Tile
from .pieces import Piece

FORMAT = "fastsam_core.tiles 1"
_SCRATCH = ".partial"
# What reading a damaged file can raise: OverflowError for the number 1e999, RecursionError for many brackets.
_DAMAGE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)


def tile_digest(pixels: NDArray[np.uint8], valid: NDArray[np.bool_] | None) -> str:
    """Return the SHA-256 hex digest of a tile's size, its pixels and its mask of valid pixels."""
    content = hashlib.sha256("{}x{}:".format(*pixels.shape[:2]).encode())
    content.update(np.ascontiguousarray(pixels).data)
    if valid is not None:
        content.update(np.packbits(valid).data)
    return content.hexdigest()


class TileFiles:
    """The files of finished tiles in `folder`. Use it as a context manager, which locks the folder until it exits.

    settings: everything that the masks depend on, stored in `settings.json`. `tile-<row>-<column>.json` stores the
    masks of one tile and the digest of its pixels. Files are written atomically and contain neither times nor paths,
    so that equal runs give equal bytes.

    Entering raises ValueError if `folder` holds tiles made with other settings or by another version of the format, if
    it is a file or lies below one, or if another process has locked it.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.folder = Path(os.path.expanduser(folder))
        # Round trip through JSON, so that they compare equal to settings that were read from a file.
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._lock = -1

    def __enter__(self) -> TileFiles:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"work_dir must be a folder, but {self.folder} or a folder above it is a file") from None
        self._lock = _locks.open_file(self.folder / ".lock", os.O_CREAT)
        try:
            if not _locks.try_lock(self._lock, self.folder):
                raise ValueError(f"another process is segmenting tiles into {self.folder}; wait for it")
            self._check_settings()
            # A killed process may have left temporary files.
            shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
            (self.folder / _SCRATCH).mkdir()
            self._write("settings.json", {"tiles": FORMAT, "package": __version__, "settings": self._settings})
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
        self._release()

    def read(self, tile: Tile, expected_digest: str) -> list[Piece] | None:
        """Return the stored masks of a tile, or None if the tile isn't finished.

        expected_digest: digest of the tile's current pixels. A damaged file counts as missing, with a warning. Raises
        ValueError if the stored masks were made from other pixels.
        """
        path = self.folder / _file_name(tile)
        try:
            content = json.loads(path.read_bytes())
            stored = content["digest"], [_parse_piece(tile.number, entry) for entry in content["masks"]]
        except FileNotFoundError:
            return None
        except _DAMAGE:
            logger.warning("%s can't be read; the tile is segmented again", path)
            return None
        if stored[0] != expected_digest:
            raise ValueError(
                f"{path} was made from other pixels: the raster has changed or is a different one. Use another work_dir"
            )
        return stored[1]

    def write(self, tile: Tile, content_digest: str, pieces: Sequence[Piece]) -> None:
        """Store the masks of a tile, with the digest of its pixels."""
        masks = [
            {
                "box": list(piece.box),
                "area": piece.area,
                "predicted_iou": piece.predicted_iou,
                "stability": piece.stability,
                "counts": piece.counts,
            }
            for piece in pieces
        ]
        self._write(_file_name(tile), {"digest": content_digest, "masks": masks})

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_path(self.folder / name, self.folder / _SCRATCH) as temporary:
            temporary.write_bytes(json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n")

    def _check_settings(self) -> None:
        """Raise ValueError unless the folder is empty of tiles or its `settings.json` matches the current settings."""
        path = self.folder / "settings.json"
        try:
            header = json.loads(path.read_bytes())
            if header["tiles"] != FORMAT:
                raise ValueError
            previous: dict[str, Any] = dict(header["settings"])
        except FileNotFoundError:
            if any(self.folder.glob("tile-*.json")):
                raise ValueError(f"{self.folder} holds tiles without settings.json; use another work_dir") from None
            return
        except _DAMAGE:
            raise ValueError(f"{path} is not of this version of tiles; use another work_dir") from None
        if previous != self._settings:
            differences = [
                f"{key} was {_format_setting(previous, key)} and is {_format_setting(self._settings, key)}"
                for key in sorted({*previous, *self._settings})
                if _format_setting(previous, key) != _format_setting(self._settings, key)
            ]
            raise ValueError(
                f"{self.folder} holds tiles segmented with other settings: {'; '.join(differences)} (fingerprint "
                f"{fingerprint(previous)[:12]}, now {fingerprint(self._settings)[:12]}). Use another work_dir"
            )

    def _release(self) -> None:
        os.close(self._lock)


def _file_name(tile: Tile) -> str:
    return f"tile-{tile.row:05}-{tile.column:05}.json"


def _parse_piece(tile: int, entry: Mapping[str, Any]) -> Piece:
    x1, y1, x2, y2 = (int(side) for side in entry["box"])
    piece = Piece(
        tile,
        (x1, y1, x2, y2),
        str(entry["counts"]),
        int(entry["area"]),
        float(entry["predicted_iou"]),
        float(entry["stability"]),
    )
    if piece.runs().area() != piece.area:
        raise ValueError(f"the mask in {piece.box} does not have {piece.area} pixels")
    return piece


def _format_setting(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not given"
