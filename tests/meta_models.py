"""Small models of other settings than the official ones, built with the classes of Meta's package or of this one.

`python tests/meta_models.py` writes the outputs of Meta's classes to data/meta_models.npz; it needs segment_anything.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from golden_recipe import fill_state_dict

PATH = Path(__file__).parent / "data" / "meta_models.npz"

# Arguments of the image encoder.
ENCODERS: dict[str, dict[str, Any]] = {
    "official": {"norm_layer": partial(nn.LayerNorm, eps=1e-6), "use_rel_pos": True, "global_attn_indexes": [2]},
    "no positions": {"use_abs_pos": False, "qkv_bias": False, "mlp_ratio": 1.5},
    "no absolute positions": {"use_abs_pos": False, "use_rel_pos": True},
    "global attention": {"window_size": 0, "use_rel_pos": True},
    "ReLU": {"act_layer": nn.ReLU, "use_rel_pos": True},
    "approximate GELU": {"act_layer": partial(nn.GELU, approximate="tanh"), "qkv_bias": False},
    "RMSNorm": {"norm_layer": partial(nn.RMSNorm, eps=0.1)},
    "LayerNorm without weights": {"norm_layer": partial(nn.LayerNorm, elementwise_affine=False, eps=0.1)},
    "patches of 8, one channel": {"in_chans": 1, "patch_size": 8, "img_size": 56, "use_rel_pos": True},
}
# Arguments of the transformer, the mask decoder and the prompt encoder.
DECODERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "official": ({}, {}, {}),
    "other activations": ({"activation": nn.GELU}, {"activation": nn.ReLU}, {"activation": nn.ReLU}),
    "another activation of the tokens": ({"activation": nn.GELU}, {}, {}),
    "wide attention": ({"attention_downsample_rate": 1}, {}, {"mask_in_chans": 4}),
    "narrow attention": ({"attention_downsample_rate": 4}, {}, {}),
    "three blocks": ({"depth": 3}, {"iou_head_depth": 2, "num_multimask_outputs": 2}, {}),
    "one block": ({"depth": 1}, {"iou_head_hidden_dim": 48}, {}),
}


def build_encoder(modeling: Any, settings: dict[str, Any]) -> nn.Module:
    """Build a small image encoder with the recipe's weights."""
    usual = {"img_size": 112, "embed_dim": 48, "depth": 3, "num_heads": 3, "out_chans": 32, "window_size": 3}
    return _filled(modeling.ImageEncoderViT(**{**usual, **settings}))


def build_sam(modeling: Any, name: str) -> Any:
    """Build a whole model in the way of Meta's build_sam.py, with the decoder `name`."""
    transformer, decoder, prompts = DECODERS[name]
    return _filled(
        modeling.Sam(
            image_encoder=build_encoder(modeling, ENCODERS["official"]),
            prompt_encoder=modeling.PromptEncoder(
                **{"embed_dim": 32, "image_embedding_size": (7, 7), "input_image_size": (112, 112)},
                **{"mask_in_chans": 16, **prompts},
            ),
            mask_decoder=modeling.MaskDecoder(
                transformer=modeling.TwoWayTransformer(
                    **{"depth": 2, "embedding_dim": 32, "mlp_dim": 64, "num_heads": 4, **transformer}
                ),
                transformer_dim=32,
                **decoder,
            ),
            pixel_mean=[90.0, 100.5, 0.25],
            pixel_std=[60.0, 1.5, 255.0],
        )
    )


def _filled(module: nn.Module) -> nn.Module:
    module.load_state_dict(fill_state_dict(module.state_dict()))
    return module.eval()


def encoder_input(settings: dict[str, Any]) -> Tensor:
    """Return an image for the encoder with these settings: (1, C, S, S)."""
    side = settings.get("img_size", 112)
    return torch.from_numpy(np.random.RandomState(0).randn(1, settings.get("in_chans", 3), side, side)).float()


def prompts() -> dict[str, Tensor]:
    """Return an image (3, 112, 80) and two objects' prompts of every kind, as Meta's `Sam` takes them."""
    random = np.random.RandomState(1)
    return {
        "image": torch.from_numpy(random.randint(0, 256, (3, 112, 80))).float(),
        "original_size": (56, 40),
        "point_coords": torch.tensor([[[20.0, 30], [70, 100]], [[10, 90], [0, 0]]]),
        "point_labels": torch.tensor([[1, 0], [1, -1]]),
        "boxes": torch.tensor([[5.0, 10, 70, 100], [0, 0, 40, 111]]),
        "mask_inputs": torch.from_numpy(3 * random.randn(2, 1, 28, 28)).float(),
    }  # type: ignore[dict-item]


def _meta_modeling() -> Any:
    """Import the modules of Meta's package without the rest of it, which needs torchvision."""
    folder = Path(importlib.util.find_spec("segment_anything").origin).parent  # type: ignore[union-attr,arg-type]
    package = sys.modules["segment_anything"] = types.ModuleType("segment_anything")
    package.__path__ = [str(folder)]
    return importlib.import_module("segment_anything.modeling")


@torch.no_grad()
def main() -> None:
    modeling, arrays = _meta_modeling(), {}
    for name, settings in ENCODERS.items():
        arrays[f"encoder {name}"] = build_encoder(modeling, settings)(encoder_input(settings))
    for name in DECODERS:
        sam = build_sam(modeling, name)
        for multimask in (False, True):
            (output,) = sam([prompts()], multimask_output=multimask)
            arrays[f"iou {name} {multimask}"] = output["iou_predictions"]
            arrays[f"logits {name} {multimask}"] = output["low_res_logits"].half()
    functions, random = modeling.image_encoder, torch.Generator().manual_seed(2)
    scores, queries = torch.randn(2, 6, 20, generator=random), torch.randn(2, 6, 8, generator=random)
    tables = torch.randn(7, 8, generator=random), torch.randn(11, 8, generator=random)
    arrays["scores"] = functions.add_decomposed_rel_pos(scores, queries, *tables, (2, 3), (4, 5))
    np.savez_compressed(PATH, **{name: value.numpy() for name, value in arrays.items()})


if __name__ == "__main__":
    main()
