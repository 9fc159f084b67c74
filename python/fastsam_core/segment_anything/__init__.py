"""The interface of Meta's `segment_anything` package, for code written against it.

    from fastsam_core.segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry

Signatures, argument names, return types and their order are Meta's, and images are RGB as there. The implementation is
this package's: checkpoints are read without executing code, and masks are made from low-resolution logits. Build models
with `sam_model_registry`, or your own from the classes in `modeling`. Call `install()` to make third-party tools that
import `segment_anything` use this package.
"""

from __future__ import annotations

import importlib
import sys

from .automatic_mask_generator import SamAutomaticMaskGenerator
from .build_sam import (
    build_sam,
    build_sam_nano,
    build_sam_vit_b,
    build_sam_vit_h,
    build_sam_vit_l,
    build_sam_vit_t,
    sam_model_registry,
)
from .modeling import Sam
from .predictor import SamPredictor

__all__ = [
    "Sam",
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "build_sam",
    "build_sam_nano",
    "build_sam_vit_b",
    "build_sam_vit_h",
    "build_sam_vit_l",
    "build_sam_vit_t",
    "install",
    "sam_model_registry",
]

_MODULES = (
    *("", ".automatic_mask_generator", ".build_sam", ".predictor"),
    *(".modeling", ".modeling.common", ".modeling.image_encoder", ".modeling.mask_decoder"),
    *(".modeling.prompt_encoder", ".modeling.sam", ".modeling.tiny_vit_sam", ".modeling.transformer"),
    *(".utils", ".utils.amg", ".utils.onnx", ".utils.transforms"),
)


def install(name: str = "segment_anything") -> None:
    """Make `import segment_anything` import this package, in this process. Call it before importing the tool.

    Raises RuntimeError if another package of that name has been imported already.
    """
    own = sys.modules[__name__]
    if sys.modules.get(name, own) is not own:
        raise RuntimeError(f"{name} is imported already, from {getattr(sys.modules[name], '__file__', 'elsewhere')}")
    for part in _MODULES:
        sys.modules[name + part] = importlib.import_module(__name__ + part)
