"""Names of the tensors in checkpoints that Hugging Face transformers' `SamModel` saves."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# The position embedding is the same for image and prompts, and transformers may store it under both names.
_POSITIONS = "shared_image_embedding.positional_embedding"
_POSITIONS_OF_PROMPTS = "prompt_encoder.shared_embedding.positional_embedding"
_MLPS = r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d+)\.)"

# Patterns of transformers' names, and what they become. The first match wins; other names are the same in both.
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"^{re.escape(_POSITIONS)}$", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
        (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
        (r"^vision_encoder\.layers\.(\d+)\.layer_norm([12])\.", r"image_encoder.blocks.\1.norm\2."),
        (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
        (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
        (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
        (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
        (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
        (r"^vision_encoder\.", "image_encoder."),
        (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
        (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
        (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
        (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
        (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
        (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
        (r"^(mask_decoder\.transformer\.layers\.\d+)\.layer_norm([1-4])\.", r"\1.norm\2."),
        (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
        (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
        (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
        (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
        (rf"{_MLPS}proj_in\.", r"\1layers.0."),
        (rf"{_MLPS}layers\.0\.", r"\1layers.1."),
        (rf"{_MLPS}proj_out\.", r"\1layers.2."),
    )
)


def from_transformers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict under the names of the official checkpoints if it is one of transformers' `SamModel`.

    Any other state dict is returned as it is, also one that has tensors under both names.
    """
    if not any(key.startswith("vision_encoder.") for key in state):
        return dict(state)
    tensors = dict(state)
    positions_of_prompts = tensors.pop(_POSITIONS_OF_PROMPTS, None)
    if positions_of_prompts is not None:
        tensors.setdefault(_POSITIONS, positions_of_prompts)
    renamed = {_to_official(key): tensor for key, tensor in tensors.items()}
    return renamed if len(renamed) == len(tensors) else dict(state)


def _to_official(name: str) -> str:
    for pattern, replacement in _RULES:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name
