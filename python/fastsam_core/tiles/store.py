"""What is finished: a file per tile in a folder, so that a run that was stopped goes on."""

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


def digest(pixels: NDArray[np.uint8], valid: NDArray[np.bool_] | None) -> str:
    """sha256 over a tile's size, its pixels, and which of them are valid."""
    content = hashlib.sha256("{}x{}:".format(*pixels.shape[:2]).encode())
    content.update(np.ascontiguousarray(pixels).data)
    if valid is not None:
        content.update(np.packbits(valid).data)
    return content.hexdigest()


class TileFiles:
    """The files of finished tiles in `folder`. Use it as a context manager; meanwhile no other process may.

    settings: what the tiles' masks depend on. `settings.json` has them, and `tile-<row>-<column>.json` the masks of a
    tile with the digest of its pixels. Files are written whole or not at all, and hold neither times nor paths.

    ValueError for a folder with tiles of other settings, for one that holds something else, for a file, and where
    another process is at work.
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        # As JSON gives them back, so that they can be compared.
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        self._lock = -1

    def __enter__(self) -> TileFiles:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"work_dir must be a folder, but {self.folder} or a folder above it is a file") from None
        self._lock = _locks.open_file(self.folder / ".lock", os.O_CREAT)
        try:
            if not _locks.lock(self._lock, self.folder):
                raise ValueError(f"another process is segmenting tiles into {self.folder}; wait for it")
            self._check()
            # What a process that was killed has left.
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

    def read(self, tile: Tile, expected: str) -> list[Piece] | None:
        """The masks of a tile whose pixels have the digest `expected`; None where it isn't finished.

        A file that can't be read is as none. ValueError where the pixels were others.
        """
        path = self.folder / _name(tile)
        try:
            content = json.loads(path.read_bytes())
            found = content["digest"], [_piece(tile.number, entry) for entry in content["masks"]]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            logger.warning("%s can't be read; the tile is segmented again", path)
            return None
        if found[0] != expected:
            raise ValueError(
                f"{path} was made from other pixels: the raster has changed, or is another one. Give another work_dir"
            )
        return found[1]

    def write(self, tile: Tile, content_digest: str, pieces: Sequence[Piece]) -> None:
        """Keep the masks of a tile."""
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
        self._write(_name(tile), {"digest": content_digest, "masks": masks})

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_path(self.folder / name, self.folder / _SCRATCH) as temporary:
            temporary.write_bytes(json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n")

    def _check(self) -> None:
        path = self.folder / "settings.json"
        try:
            header = json.loads(path.read_bytes())
            if header["tiles"] != FORMAT:
                raise ValueError
            before: dict[str, Any] = dict(header["settings"])
        except FileNotFoundError:
            if any(self.folder.glob("tile-*.json")):
                raise ValueError(f"{self.folder} holds tiles without settings.json; give another work_dir") from None
            return
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} was written by another version; give another work_dir") from None
        if before != self._settings:
            differences = [
                f"{key} was {_shown(before, key)} and is {_shown(self._settings, key)}"
                for key in sorted({*before, *self._settings})
                if _shown(before, key) != _shown(self._settings, key)
            ]
            raise ValueError(
                f"{self.folder} holds tiles that were segmented with other settings: {'; '.join(differences)} "
                f"(fingerprint {fingerprint(before)[:12]}, now {fingerprint(self._settings)[:12]}). Give another "
                "work_dir"
            )

    def _release(self) -> None:
        os.close(self._lock)


def _name(tile: Tile) -> str:
    return f"tile-{tile.row:05}-{tile.column:05}.json"


def _piece(tile: int, entry: Mapping[str, Any]) -> Piece:
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


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not given"
