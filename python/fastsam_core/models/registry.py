"""The registry of models: one row each with sizes, official file names and addresses."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .image_encoder import sam_vit
from .mask_decoder import MaskDecoder, TwoWayTransformer
from .mask_scoring import OFFICIAL, MaskScoring
from .prompt_encoder import PromptEncoder
from .sam_model import SamModel
from .tiny_vit import TinyViT

_META = "https://dl.fbaipublicfiles.com/segment_anything/"
_ASSETS = "https://github.com/ultralytics/assets/releases/download/v8.2.0/"


@dataclass(frozen=True)
class ModelSpec:
    """One row of the registry.

    Attributes:
        name: the name by which users request the model.
        image_size: long side of the model input in pixels.
        encoder: builds the image encoder.
        file_names: names under which the weights are known; the first is this package's own.
        urls: addresses of the weights, in the order in which to try them (`checksums.py` has their hashes).
        embed_dim: channels of the embedding.
        decoder_mlp_dim: hidden width of the mask decoder's MLPs.
        ignored_keys: prefixes of tensor names in checkpoints that are not part of the model.
        mask_scoring: how to score and filter the model's masks.
    """

    name: str
    image_size: int
    encoder: Callable[[], nn.Module]
    file_names: tuple[str, ...]
    urls: tuple[str, ...] = ()
    embed_dim: int = 256
    decoder_mlp_dim: int = 2048
    ignored_keys: tuple[str, ...] = ()
    mask_scoring: MaskScoring = OFFICIAL

    def build(self) -> SamModel:
        """Build the untrained model."""
        model = SamModel(
            self.name,
            self.encoder(),
            PromptEncoder(self.embed_dim, (self.image_size // 16,) * 2, (self.image_size,) * 2),
            MaskDecoder(
                transformer_dim=self.embed_dim,
                transformer=TwoWayTransformer(2, self.embed_dim, 8, self.decoder_mlp_dim),
            ),
        )
        model.mask_scoring = self.mask_scoring
        return model


_ROWS = (
    ModelSpec(
        "sam_b",
        image_size=1024,
        encoder=lambda: sam_vit(768, 12, 12, (2, 5, 8, 11)),
        file_names=("sam_b.pt", "sam_vit_b_01ec64.pth"),
        urls=(_META + "sam_vit_b_01ec64.pth", _ASSETS + "sam_b.pt"),
    ),
    ModelSpec(
        "sam_l",
        image_size=1024,
        encoder=lambda: sam_vit(1024, 24, 16, (5, 11, 17, 23)),
        file_names=("sam_l.pt", "sam_vit_l_0b3195.pth"),
        urls=(_META + "sam_vit_l_0b3195.pth", _ASSETS + "sam_l.pt"),
    ),
    ModelSpec(
        "sam_h",
        image_size=1024,
        encoder=lambda: sam_vit(1280, 32, 16, (7, 15, 23, 31)),
        file_names=("sam_h.pt", "sam_vit_h_4b8939.pth"),
        urls=(_META + "sam_vit_h_4b8939.pth",),
    ),
    ModelSpec(
        "mobile_sam",
        image_size=1024,
        encoder=lambda: TinyViT((64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)),
        file_names=("mobile_sam.pt",),
        urls=(_ASSETS + "mobile_sam.pt",),
        ignored_keys=("image_encoder.norm_head.", "image_encoder.head."),
    ),
    ModelSpec(
        "sam_nano",
        image_size=512,
        # The windows of the last stage span the whole grid, so that each embedding sees all of its object.
        encoder=lambda: TinyViT((48, 96, 160, 256), (1, 2, 5, 2), (2, 3, 5, 8), (8, 8, 16, 32), out_channels=128),
        file_names=("sam_nano.pt", "sam_nano.safetensors"),
        embed_dim=128,
        decoder_mlp_dim=512,
        # Its scores are honest but low: at the usual thresholds few masks would be left, and many clicks would give
        # none.
        mask_scoring=MaskScoring(
            conf=-1.0,
            conf_thres=0.45,
            stability_score_thresh=0.5,
            stability_share=0.5,
            highest_stability=0.75,
            consensus=0.12,
            least_region=0.004,
            within_box=True,
        ),
    ),
)
MODELS: dict[str, ModelSpec] = {row.name: row for row in _ROWS}


def build(name: str) -> SamModel:
    """Build the untrained model of a registry row. ValueError for an unknown name, suggesting the closest one."""
    if name not in MODELS:
        close = difflib.get_close_matches(str(name), MODELS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown model {name!r}: the models are {', '.join(MODELS)}{hint}")
    return MODELS[name].build()
