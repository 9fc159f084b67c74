"""`Masks`: the masks of one image, stored as run lengths or as a tensor. Run lengths expand to pixels on demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from . import contours
from ._tensors import to_tensor
from .base_tensor import Array, BaseTensor, Rows, image_shape, take_rows, to_numpy

RLE = dict[str, Any]

# Above this many run lengths, `from_runs` stores them as text at once, which takes an eighth of the memory. Below, they
# are converted only when needed.
_MAX_UNCOMPRESSED_COUNTS = 1 << 18


class Masks(BaseTensor):
    """N masks of an image of `orig_shape` = (height, width).

    `data` is a tensor or array (N, H, W), foreground where it is above 0 (so logits work too), or a list of COCO
    run-length dicts `{"size": [H, W], "counts": str}`. Run lengths stay run lengths through indexing and moves between
    devices. For them `.data` creates the pixels on first use, in `dtype` (bool or uint8), and caches them. A tensor of
    them can be edited in place, by PyTorch's operations; edits that PyTorch doesn't see, as of arrays that share the
    tensor's memory, don't change `.rle`, `.area` and `.xy`. New masks can be assigned to `.data`.

    Raises ValueError for masks whose size is not that of the image, and for malformed run lengths.
    """

    def __init__(
        self,
        data: Array | Sequence[RLE],
        orig_shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.bool,
    ) -> None:
        self.orig_shape = image_shape(orig_shape)
        self._rles: list[RLE] | None = None
        self._runs: tuple[torch.Tensor, torch.Tensor] | None = None  # counts and offsets, until `_rles` is made of them
        self._dense: Array | None = None
        self._dense_version: int | None = None  # `_version` of a `_dense` that was expanded from run lengths
        self._device: torch.device | None = torch.device(device or "cpu")  # of expanded pixels; None: a NumPy array
        self._dtype = dtype  # of expanded pixels
        self._area: np.ndarray | None = None
        self._rings: list[np.ndarray] | None = None
        if isinstance(data, (torch.Tensor, np.ndarray)):
            self._dense = self._checked_dense(data)
        elif isinstance(data, (list, tuple)):
            self._rles = [self._checked_rle(rle) for rle in data]
            self._area = self._compute_areas()  # reads all runs, so that malformed ones raise here and not later
        else:
            raise TypeError(f"masks are a tensor or array (N, H, W) or a list of RLE dicts, not {type(data).__name__}")

    @classmethod
    def from_runs(
        cls,
        counts: torch.Tensor,
        offsets: torch.Tensor,
        area: np.ndarray,
        orig_shape: Sequence[int],
        device: torch.device | str | None = None,
    ) -> Masks:
        """Create masks from run lengths that `ops.mask_runs` made, without checking them.

        counts: (R,) int64, the run lengths of all N masks, concatenated. offsets: (N + 1,) int64, where the run lengths
        of each mask begin. area: (N,), pixels per mask.
        """
        masks = cls([], orig_shape, device=device)
        masks._rles, masks._runs, masks._area = None, (counts, offsets), area
        if len(counts) > _MAX_UNCOMPRESSED_COUNTS:
            masks._as_rles()
        return masks

    @classmethod
    def join(cls, parts: Sequence[Masks]) -> Masks:
        """Concatenate masks of one image on one device, all stored as run lengths."""
        if len(parts) == 1:
            return parts[0]
        area = np.concatenate([part._compute_areas() for part in parts])
        return parts[0]._from_validated(
            [rle_dict for part in parts for rle_dict in part._as_rles()], area, parts[0]._device
        )

    @property
    def data(self) -> Array:
        """Pixels (N, H, W): expanded to `dtype` on first use if the masks are stored as run lengths, else as given."""
        if self._dense is None:
            from . import ops, rle

            if (runs := self._runs) is not None:
                pixels = ops.rle_decode(*runs, *self.orig_shape)
            else:
                rles = self._as_rles()
                pixels = (
                    rle.to_masks(rles) if rles else torch.zeros((0, *self.orig_shape), dtype=torch.bool, device="cpu")
                )
            pixels = pixels.to(self._dtype)
            self._dense = pixels.numpy() if self._device is None else pixels.to(self._device)
            if isinstance(self._dense, torch.Tensor) and not self._dense.is_inference():
                self._dense_version = self._dense._version
        return self._dense

    @data.setter
    def data(self, data: Array | Sequence[RLE]) -> None:
        self._replace(data)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (N, H, W), without expanding run lengths."""
        return (len(self._compute_areas()), *self.orig_shape) if self.is_rle else tuple(self.data.shape)

    @property
    def is_rle(self) -> bool:
        """Whether the masks are stored as run lengths, which edited pixels replace."""
        self._forget_edited_runs()
        return self._runs is not None or self._rles is not None

    def _forget_edited_runs(self) -> None:
        """Drop the run lengths, and what was computed of them, if the pixels expanded from them were edited since."""
        version = self._dense_version
        if version is not None and isinstance(self._dense, torch.Tensor) and self._dense._version != version:
            self._runs = self._rles = self._area = self._rings = self._dense_version = None

    @property
    def rle(self) -> list[RLE]:
        """COCO run-length dicts, `{"size": [H, W], "counts": str}`, one per mask."""
        from . import rle

        if self.is_rle:
            return [{"size": list(rle_dict["size"]), "counts": rle_dict["counts"]} for rle_dict in self._as_rles()]
        return rle.from_masks(to_numpy(self.data > 0))

    @property
    def area(self) -> torch.Tensor:
        """Number of pixels per mask, (N,) int64 on the CPU."""
        return torch.from_numpy(self._compute_areas().copy())

    @property
    def xy(self) -> list[np.ndarray]:
        """One closed contour per mask, float32 (K, 2), x and y pixel indices; (0, 2) for an empty mask.

        Several parts of a mask are joined at their nearest points, and holes are lost; `polygons` keeps both.
        """
        self._forget_edited_runs()
        if self._rings is None:
            self._rings = [contours.ring(crop, corner) for corner, crop in self.crops()]
        return list(self._rings)  # a copy, because callers often pop() contours from it

    @property
    def xyn(self) -> list[np.ndarray]:
        """`xy` divided by (width, height). It never reaches 1.0, because `xy` are pixel indices."""
        return [ring / self._image_wh for ring in self.xy]

    @property
    def polygons(self) -> list[list[contours.Polygon]]:
        """All parts of each mask, each part an exterior (K, 2) and its holes, in pixel indices."""
        return [contours.polygons(crop, corner) for corner, crop in self.crops()]

    @property
    def boxes(self) -> np.ndarray:
        """Bounding boxes, (N, 4) int64: x1, y1, x2, y2 of the outermost pixels, inclusive; zeros for an empty mask."""
        if not self.is_rle:
            boxes = [_bounding_box(to_numpy(self.data[i] > 0)) for i in range(len(self))]
        else:
            from . import rle

            corners = rle.toBbox(self._as_rles()).astype(np.int64)
            boxes = [(x, y, x + w - 1, y + h - 1) if w and h else (0, 0, 0, 0) for x, y, w, h in corners.tolist()]
        return np.array(boxes, np.int64).reshape(-1, 4)

    def crops(self) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Yield `crop` of every mask. Only one mask is expanded at a time."""
        return (self.crop(i) for i in range(len(self)))

    def crop(self, index: int) -> tuple[tuple[int, int], np.ndarray]:
        """Return the corner (x, y) of one mask's bounding box and the bool pixels (h, w) inside it.

        An empty mask gives the corner (0, 0) and pixels (0, 0).
        """
        mask = self[index]
        if not mask._compute_areas()[0]:
            return (0, 0), np.zeros((0, 0), bool)
        x1, y1, x2, y2 = mask.boxes[0].tolist()
        if not mask.is_rle:
            return (x1, y1), np.ascontiguousarray(self.pixels(index)[y1 : y2 + 1, x1 : x2 + 1])
        from . import rle

        # Decode only the pixels of the box; the image may be many times as large.
        pixels = rle.decode(rle.crop(mask._as_rles()[0], [x1, y1, x2 - x1 + 1, y2 - y1 + 1]))
        return (x1, y1), np.ascontiguousarray(pixels).view(bool)

    def pixels(self, index: int) -> np.ndarray:
        """Return one mask as a bool array (H, W)."""
        if self.is_rle:
            from . import rle

            return np.asarray(rle.decode(self._as_rles()[index])).view(bool)
        return to_numpy(self.data[index] > 0)

    def take(self, rows: Rows) -> Masks:
        """Return the rows that an index was resolved to; run lengths stay run lengths."""
        if not self.is_rle:
            return Masks(take_rows(self._dense, rows), self.orig_shape)
        return self._from_validated(take_rows(self._as_rles(), rows), self._compute_areas()[rows], self._device)

    def cpu(self) -> Masks:
        """Return the masks on the CPU; an array stays an array."""
        return self._on_device(self._device and torch.device("cpu")) if self.is_rle else super().cpu()

    def numpy(self) -> Masks:
        """Return the masks with `data` as a `numpy.ndarray`."""
        return self._on_device(None) if self.is_rle else super().numpy()

    def to(self, *args: Any, **kwargs: Any) -> Masks:
        """Return the masks converted as by `torch.Tensor.to`. Run lengths are expanded only for a different dtype."""
        if not self.is_rle:
            return super().to(*args, **kwargs)
        probe = torch.empty(0, dtype=self._dtype, device=self._device or "cpu").to(*args, **kwargs)
        if probe.dtype == self._dtype:
            return self._on_device(probe.device)
        return Masks(to_tensor(self.data).to(*args, **kwargs), self.orig_shape)

    def _on_device(self, device: torch.device | None) -> Masks:
        masks = self._from_validated([], self._compute_areas(), device)
        masks._runs, masks._rles = self._runs, None if self._rles is None else list(self._rles)
        return masks

    def _with(self, data: Array) -> Masks:
        return Masks(data, self.orig_shape)

    def _from_validated(self, rles: list[RLE], area: np.ndarray, device: torch.device | None) -> Masks:
        masks = Masks([], self.orig_shape, dtype=self._dtype)
        masks._rles, masks._area, masks._device = rles, area, device
        return masks

    def _as_rles(self) -> list[RLE]:
        """Return the COCO RLE dicts. Run lengths from `from_runs` are converted on first use and replaced by these."""
        if (runs := self._runs) is not None:
            from . import _rle_dicts

            compressed = _rle_dicts.compress_counts(*runs)
            self._rles = [{"size": list(self.orig_shape), "counts": counts.decode("ascii")} for counts in compressed]
            self._runs = None  # after `_rles` is set: another thread may read in between
        assert self._rles is not None
        return self._rles

    def _compute_areas(self) -> np.ndarray:
        if self.is_rle and self._area is not None:
            return self._area
        if self._rles is not None:
            from . import rle

            return np.asarray(rle.area(self._rles), dtype=np.int64)
        pixels = self.data
        if isinstance(pixels, torch.Tensor) and pixels.device.type != "cpu":
            return to_numpy((pixels if pixels.dtype == torch.bool else pixels > 0).flatten(1).sum(1))
        # On the CPU, NumPy counts several times faster than PyTorch.
        return np.array([np.count_nonzero(to_numpy(mask > 0)) for mask in pixels], np.int64)

    @property
    def _image_wh(self) -> np.ndarray:
        return np.array(self.orig_shape[::-1], np.float32)

    def _checked_dense(self, data: Array) -> Array:
        stacked = data[None] if data.ndim == 2 else data
        if stacked.ndim != 3 or tuple(stacked.shape[1:]) != self.orig_shape:
            raise ValueError(
                f"masks must be (N, H, W) with the image's H x W = {self.orig_shape[0]} x {self.orig_shape[1]}, "
                f"not {tuple(data.shape)}; resize them to the image first"
            )
        return stacked

    def _checked_rle(self, mask: Any) -> RLE:
        if not isinstance(mask, Mapping):
            raise TypeError(f"a mask in a list must be an RLE dict, not {type(mask).__name__}; stack arrays")
        if "size" not in mask or "counts" not in mask:
            raise ValueError(f"an RLE dict has 'size' and 'counts', not {sorted(map(str, mask))}")
        size, counts = mask["size"], mask["counts"]
        size = list(size) if isinstance(size, Iterable) else size
        if size != list(self.orig_shape):
            raise ValueError(f"the RLE has size {size}, but the image has {list(self.orig_shape)} (height, width)")
        if isinstance(counts, (bytes, bytearray)):
            counts = counts.decode("ascii")  # UnicodeDecodeError is a ValueError
        elif not isinstance(counts, str):
            from . import rle

            counts = list(counts) if isinstance(counts, Iterable) else counts
            counts = rle.frPyObjects({"size": list(self.orig_shape), "counts": counts}, 0, 0)["counts"].decode("ascii")
        return {"size": list(self.orig_shape), "counts": counts}

    def __getstate__(self) -> dict[str, Any]:
        # Expanded pixels can be made again from the run lengths; leave them out to keep pickles small.
        is_rle = self.is_rle
        state = dict(self.__dict__)
        if is_rle:
            state["_dense"] = state["_dense_version"] = None
        return state

    def __repr__(self) -> str:
        storage = "RLE" if self.is_rle else str(getattr(self.data, "dtype", "")).removeprefix("torch.")
        return f"Masks({' x '.join(map(str, self.shape))}, held as {storage})"


def _bounding_box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
