"""`SAM`: a Segment Anything model that is loaded by name and called on images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import numpy as np
import torch

from ._log import warn_once
from .device import select_device
from .model_facade import ModelFacade, Summary
from .models.checkpoint import load_model
from .models.sam_model import SamModel
from .models.wrappers import unwrapped
from .predictor import Predictor
from .results import Results

if TYPE_CHECKING:
    from .evaluate.report import Evaluation


class SAM(ModelFacade):
    """A Segment Anything model. It is loaded on the CPU; calls move it to the chosen device and set evaluation mode.

    model: a checkpoint name ("sam_b.pt", "sam_l.pt", "sam_h.pt", "mobile_sam.pt", "sam_nano.pt", or Meta's file
    names), a path to a .pt, .pth or .safetensors file of any name, or a `SamModel`, also in a wrapper of PEFT,
    `torch.compile` or data parallelism. A name that is not an existing file is looked up in the cache folder and then
    downloaded.

    The attribute `model` is the module with `image_encoder`, `prompt_encoder` and `mask_decoder`; attributes that `SAM`
    lacks are looked up on it. `overrides` holds options for all calls. `predictor` is None before the first call.
    """

    model: SamModel
    predictor: Predictor | None
    # Unlike a `Predictor` used directly, `SAM` writes no files unless asked to.
    _default_options: ClassVar[dict[str, Any]] = {
        "conf": None,
        "dtype": None,
        "task": "segment",
        "mode": "predict",
        "save": False,
    }

    def __init__(self, model: str | os.PathLike[str] | SamModel = "sam_b.pt") -> None:
        model = unwrapped(model)
        if isinstance(model, SamModel):
            module = model.eval()
            self.model_name = model.name
        elif isinstance(model, str | os.PathLike):
            self.model_name = os.fspath(model)
            module = load_model(model, device="cpu")
        else:
            raise TypeError(f"model must be a checkpoint's name or path or a SamModel, not {type(model).__name__}")
        self.ckpt_path: str | None = None if isinstance(model, SamModel) else self.model_name
        super().__init__(module, {})

    @property
    def task(self) -> Literal["segment"]:
        """Task of the model."""
        return "segment"

    @property
    def task_map(self) -> dict[str, dict[str, type[Predictor]]]:
        """The class of the predictor by task, as in Ultralytics; subclasses may name their own."""
        return {"segment": {"predictor": Predictor}}

    # --- prediction ---

    @overload
    def predict(self, source: Any = ..., stream: Literal[False] = ..., *args: Any, **kwargs: Any) -> list[Results]: ...

    @overload
    def predict(self, source: Any, stream: Literal[True], *args: Any, **kwargs: Any) -> Iterator[Results]: ...

    @overload
    def predict(self, source: Any = ..., *, stream: Literal[True], **kwargs: Any) -> Iterator[Results]: ...

    @overload
    def predict(
        self, source: Any = ..., stream: bool = ..., *args: Any, **kwargs: Any
    ) -> list[Results] | Iterator[Results]: ...

    def predict(
        self,
        source: Any = None,
        stream: bool = False,
        bboxes: Any = None,
        points: Any = None,
        labels: Any = None,
        *,
        predictor: Any = None,
        **kwargs: Any,
    ) -> list[Results] | Iterator[Results]:
        """Segment every image of `source` and return one `Results` per image, in order. A call does the same.

        Args:
            source: a path, folder, glob, list file, URL, video, stream, BGR array, Pillow image, RGB tensor or batch
                of them, or a list of these. None means the sample images of the package.
            stream: return an iterator that processes images as it is consumed, instead of a list.
            bboxes: box prompts. All prompts are in pixels of the original image and apply to every image; `prompts.py`
                lists the accepted forms. Without prompts everything is segmented.
            points: clicks.
            labels: labels of the clicks: 1 foreground, 0 background.
            predictor: a subclass of `Predictor` to use from this call on, or one of its instances.
            kwargs: `masks` (mask prompts); `texts`, a text or a list of texts to look for ("a dog"), which needs the
                extra `text`; `multimask_output`; and every option of `config.Config` or its alias, for this call only.
                Among them `batch` is the number of images that the image encoder processes together (frames of live
                streams are processed one by one). `dtype` is the type that the model computes in: float32; float16 or
                bfloat16 on a GPU; bfloat16 also on CPUs that multiply it faster than float32, where it applies to the
                image encoders of sam_b, sam_l and sam_h and to the mask upscaling of all decoders.

        Raises:
            TypeError: an unknown option, or a value of the wrong type.
            ValueError: a value that is out of range or doesn't fit, or a single image that can't be decoded.
            FileNotFoundError, ConnectionError: a single image that can't be read. Of several images, those that can't
                be read are logged and skipped.
        """
        if source is None:
            from . import ASSETS

            warn_once(
                f"no source given, or None, which cv2.imread returns for a file that it can't read; using {ASSETS}"
            )
            source = ASSETS
        return self._run(predictor, source, stream, {"bboxes": bboxes, "points": points, "labels": labels, **kwargs})

    if TYPE_CHECKING:
        __call__ = predict

    def edges(
        self, image: Any, *, points_stride: int = 16, nms_thresh: float = 0.7, thin: bool = True, **options: Any
    ) -> np.ndarray:
        """Return the edge map of one image, (H, W) float32 in [0, 1]. See `Predictor.edges`.

        image: path, URL, BGR array, Pillow image or RGB tensor.
        """
        return self._prepare_predictor().edges(
            image, points_stride=points_stride, nms_thresh=nms_thresh, thin=thin, **options
        )

    def proposals(self, image: Any, n: int = 1000, *, nms_thresh: float = 0.9, **options: Any) -> Results:
        """Return up to `n` object proposals of one image: boxes, masks and scores, best first.

        See `Predictor.proposals`.

        image: path, URL, BGR array, Pillow image or RGB tensor.
        """
        return self._prepare_predictor().proposals(image, n, nms_thresh=nms_thresh, **options)

    def val(
        self,
        data: str | os.PathLike[str],
        *,
        images: str | os.PathLike[str] | None = None,
        imgsz: int | None = None,
        device: Any = None,
        output: str | os.PathLike[str] | None = None,
        verbose: bool = True,
        **settings: Any,
    ) -> Evaluation:
        """Evaluate the model on a data set with ground-truth masks, beside baselines that use no model.

        Measures IoU for clicks and boxes, boundary F, the number of clicks needed, and average recall. `print` shows
        the result as a table.

        data: a COCO .json file, with `images` the folder of its images; a data.yaml, of which the images of `split` are
        used; or a folder that holds `images` and either `masks` (PNG) or `labels` (.npz, or YOLO .txt). settings:
        `measures`, `split`, `min_area`, `max_images`, `seed`, `baselines`, `mask_feedback`, `points_stride`, `rows`.
        See `evaluate.run.evaluate` and `evaluate.settings.EvaluateConfig`.
        """
        from .evaluate.run import evaluate

        return evaluate(
            self._prepare_predictor(),
            data,
            images=images,
            imgsz=imgsz,
            device=device,
            output=output,
            verbose=verbose,
            **settings,
        )

    # --- the module ---

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.device

    def to(self, *args: Any, **kwargs: Any) -> SAM:
        """Move the model, with the arguments of `nn.Module.to`.

        A dtype doesn't convert the weights; it sets the type that later calls compute in, as `half` does. Raises
        ValueError for a device that is not available and for a dtype other than float32, float16 and bfloat16.
        """
        try:
            device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        except RuntimeError as error:  # an unknown device name
            raise ValueError(str(error)) from None
        if dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"dtype must be torch.float32, torch.float16 or torch.bfloat16, not {dtype}")
        if device is not None:
            self.model.to(select_device(device))
        return self if dtype is None else self._set_compute_dtype(dtype)

    def cuda(self, device: int | str | torch.device | None = None) -> SAM:
        """Move the model to a CUDA device. Raises ValueError if there is none."""
        self.model.to(select_device("cuda" if device is None else device))
        return self

    def cpu(self) -> SAM:
        """Move the model to the CPU."""
        self.model.cpu()
        return self

    def half(self) -> SAM:
        """Compute in float16 on CUDA devices. Weights keep their type, and coordinates stay float32."""
        return self._set_compute_dtype(torch.float16)

    def bfloat16(self) -> SAM:
        """Compute in bfloat16 where that is faster. Weights keep their type, and coordinates stay float32.

        It applies on CUDA devices, and on CPUs that multiply bfloat16 faster than float32 (`fastsam doctor` reports
        whether this one does). On such CPUs only the image encoders of sam_b, sam_l and sam_h and the mask upscaling of
        the decoders use it.
        """
        return self._set_compute_dtype(torch.bfloat16)

    def float(self) -> SAM:
        """Compute in float32, the default."""
        return self._set_compute_dtype(torch.float32)

    def _set_compute_dtype(self, dtype: torch.dtype) -> SAM:
        for key in ("dtype", "half", "quantize"):
            self.overrides.pop(key, None)
        if dtype != self.model.dtype:
            self.overrides["dtype"] = dtype
        return self

    def __repr__(self) -> str:
        return f"SAM({self.model_name!r}, {self.model.name}, {self.device})"

    def info(self, detailed: bool = False, verbose: bool = True) -> Summary | None:
        """Print a summary of the model; with `detailed`, also one row per parameter.

        Returns (layers, parameters, gradients, GFLOPs): the number of modules without children, of parameter values,
        of parameter values that require gradients, and 0.0, because GFLOPs are not measured. With verbose=False it
        prints nothing and returns None.
        """
        return self._summary(detailed, 0.0) if verbose else None
