"""transformers' `SamModel` with the weights of one of this package's models, so that outputs can be compared."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastsam_core.models.sam_model import SamModel

# Replacements from this package's (the official) names to transformers' names, in the order to apply them.
_KEY_REPLACEMENTS = (
    ("image_encoder.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
    ("image_encoder.blocks.", "vision_encoder.layers."),
    ("image_encoder.neck.0.", "vision_encoder.neck.conv1."),
    ("image_encoder.neck.1.", "vision_encoder.neck.layer_norm1."),
    ("image_encoder.neck.2.", "vision_encoder.neck.conv2."),
    ("image_encoder.neck.3.", "vision_encoder.neck.layer_norm2."),
    ("image_encoder.", "vision_encoder."),
    ("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", "shared_image_embedding.positional_embedding"),
    ("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed."),
    ("mask_downscaling.0.", "mask_embed.conv1."),
    ("mask_downscaling.1.", "mask_embed.layer_norm1."),
    ("mask_downscaling.3.", "mask_embed.conv2."),
    ("mask_downscaling.4.", "mask_embed.layer_norm2."),
    ("mask_downscaling.6.", "mask_embed.conv3."),
    ("mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
    (".norm_final_attn.", ".layer_norm_final_attn."),
    *((f".norm{i}.", f".layer_norm{i}.") for i in range(1, 5)),
)
_HEADS = ("output_hypernetworks_mlps.", "iou_prediction_head.")
_HEAD_LAYERS = ((".layers.0.", ".proj_in."), (".layers.2.", ".proj_out."), (".layers.1.", ".layers.0."))


def to_transformers_key(name: str) -> str:
    """Convert a state-dict key of this package to transformers' name."""
    for ours, theirs in _KEY_REPLACEMENTS:
        name = name.replace(ours, theirs)
    if any(head in name for head in _HEADS):
        for ours, theirs in _HEAD_LAYERS:
            if ours in name:
                return name.replace(ours, theirs)
    return name


def transformers_model(model: SamModel) -> Any:
    """Return transformers' ViT-B SAM with attention through SDPA. It shares `model`'s tensors, which must be sam_b's.

    The decoder's LayerNorms get the reference's epsilon of 1e-5; transformers' default is 1e-6.
    """
    import torch
    from transformers import SamConfig
    from transformers import SamModel as Peer

    config = SamConfig(mask_decoder_config={"layer_norm_eps": 1e-5}, attn_implementation="sdpa")
    with torch.device("meta"):
        peer = Peer(config)
    state: dict[str, Tensor] = {to_transformers_key(name): tensor for name, tensor in model.state_dict().items()}
    # transformers has this tensor under two names.
    state["prompt_encoder.shared_embedding.positional_embedding"] = state["shared_image_embedding.positional_embedding"]
    peer.load_state_dict(state, assign=True)
    return peer.eval()
