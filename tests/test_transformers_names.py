"""Tests of checkpoints that Hugging Face transformers saved, whose tensors have other names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fastsam_core import SAM
from fastsam_core.convert_checkpoint import convert_checkpoint
from fastsam_core.models import registry
from fastsam_core.models.checkpoint import load_model
from fastsam_core.models.image_encoder import sam_vit
from fastsam_core.models.transformers_names import from_transformers_names
from weights_examples import State, empty_folders, hollow, same

POSITIONS = "shared_image_embedding.positional_embedding"
POSITIONS_OF_PROMPTS = "prompt_encoder.shared_embedding.positional_embedding"
TINY = "sam_vit_32x2_128"  # the name of the model that `tiny_state` belongs to

# Modules or tensors by the names of the official checkpoints and of transformers; "=" where these are the same.
NAMES = f"""
prompt_encoder.pe_layer.positional_encoding_gaussian_matrix {POSITIONS}
image_encoder.pos_embed vision_encoder.pos_embed
image_encoder.patch_embed.proj vision_encoder.patch_embed.projection
image_encoder.blocks.N.norm1 vision_encoder.layers.N.layer_norm1
image_encoder.blocks.N.attn.rel_pos_h vision_encoder.layers.N.attn.rel_pos_h
image_encoder.blocks.N.attn.rel_pos_w vision_encoder.layers.N.attn.rel_pos_w
image_encoder.blocks.N.attn.qkv vision_encoder.layers.N.attn.qkv
image_encoder.blocks.N.attn.proj vision_encoder.layers.N.attn.proj
image_encoder.blocks.N.norm2 vision_encoder.layers.N.layer_norm2
image_encoder.blocks.N.mlp.lin1 vision_encoder.layers.N.mlp.lin1
image_encoder.blocks.N.mlp.lin2 vision_encoder.layers.N.mlp.lin2
image_encoder.neck.0 vision_encoder.neck.conv1
image_encoder.neck.1 vision_encoder.neck.layer_norm1
image_encoder.neck.2 vision_encoder.neck.conv2
image_encoder.neck.3 vision_encoder.neck.layer_norm2
prompt_encoder.mask_downscaling.0 prompt_encoder.mask_embed.conv1
prompt_encoder.mask_downscaling.1 prompt_encoder.mask_embed.layer_norm1
prompt_encoder.mask_downscaling.3 prompt_encoder.mask_embed.conv2
prompt_encoder.mask_downscaling.4 prompt_encoder.mask_embed.layer_norm2
prompt_encoder.mask_downscaling.6 prompt_encoder.mask_embed.conv3
prompt_encoder.point_embeddings.N prompt_encoder.point_embed.N
prompt_encoder.no_mask_embed =
prompt_encoder.not_a_point_embed =
mask_decoder.iou_token =
mask_decoder.mask_tokens =
mask_decoder.transformer.layers.N.self_attn.q_proj =
mask_decoder.transformer.layers.N.self_attn.k_proj =
mask_decoder.transformer.layers.N.self_attn.v_proj =
mask_decoder.transformer.layers.N.self_attn.out_proj =
mask_decoder.transformer.layers.N.cross_attn_token_to_image.q_proj =
mask_decoder.transformer.layers.N.cross_attn_token_to_image.k_proj =
mask_decoder.transformer.layers.N.cross_attn_token_to_image.v_proj =
mask_decoder.transformer.layers.N.cross_attn_token_to_image.out_proj =
mask_decoder.transformer.layers.N.cross_attn_image_to_token.q_proj =
mask_decoder.transformer.layers.N.cross_attn_image_to_token.k_proj =
mask_decoder.transformer.layers.N.cross_attn_image_to_token.v_proj =
mask_decoder.transformer.layers.N.cross_attn_image_to_token.out_proj =
mask_decoder.transformer.layers.N.mlp.lin1 =
mask_decoder.transformer.layers.N.mlp.lin2 =
mask_decoder.transformer.layers.N.norm1 mask_decoder.transformer.layers.N.layer_norm1
mask_decoder.transformer.layers.N.norm2 mask_decoder.transformer.layers.N.layer_norm2
mask_decoder.transformer.layers.N.norm3 mask_decoder.transformer.layers.N.layer_norm3
mask_decoder.transformer.layers.N.norm4 mask_decoder.transformer.layers.N.layer_norm4
mask_decoder.transformer.final_attn_token_to_image.q_proj =
mask_decoder.transformer.final_attn_token_to_image.k_proj =
mask_decoder.transformer.final_attn_token_to_image.v_proj =
mask_decoder.transformer.final_attn_token_to_image.out_proj =
mask_decoder.transformer.norm_final_attn mask_decoder.transformer.layer_norm_final_attn
mask_decoder.output_upscaling.0 mask_decoder.upscale_conv1
mask_decoder.output_upscaling.1 mask_decoder.upscale_layer_norm
mask_decoder.output_upscaling.3 mask_decoder.upscale_conv2
mask_decoder.output_hypernetworks_mlps.N.layers.0 mask_decoder.output_hypernetworks_mlps.N.proj_in
mask_decoder.output_hypernetworks_mlps.N.layers.1 mask_decoder.output_hypernetworks_mlps.N.layers.0
mask_decoder.output_hypernetworks_mlps.N.layers.2 mask_decoder.output_hypernetworks_mlps.N.proj_out
mask_decoder.iou_prediction_head.layers.0 mask_decoder.iou_prediction_head.proj_in
mask_decoder.iou_prediction_head.layers.1 mask_decoder.iou_prediction_head.layers.0
mask_decoder.iou_prediction_head.layers.2 mask_decoder.iou_prediction_head.proj_out
"""


def transformers_name(official: str) -> str:
    for line in NAMES.split("\n"):
        if not line:
            continue
        ours, theirs = line.split()
        for index in map(str, range(32)):
            prefix = ours.replace(".N", f".{index}")
            if official == prefix or official.startswith(prefix + "."):
                other = prefix if theirs == "=" else theirs.replace(".N", f".{index}")
                return other + official[len(prefix) :]
    raise AssertionError(f"{official} has no name in transformers")


def saved_by_transformers(state: State) -> State:
    """Return a state dict as `SamModel.state_dict()` of transformers names it, with the positions twice."""
    renamed = {transformers_name(key): value for key, value in state.items()}
    return {**renamed, POSITIONS_OF_PROMPTS: renamed[POSITIONS].clone()}


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    return empty_folders(tmp_path, monkeypatch)


@pytest.fixture
def tiny_state() -> State:
    """Weights of a small model with the layers of Meta's."""
    spec = registry.ModelSpec("tiny", 128, lambda: sam_vit(32, 2, 2, (1,), img_size=128), ())
    generator = torch.Generator().manual_seed(2)
    shapes = {key: value.shape for key, value in spec.build().state_dict().items()}
    return {key: 0.1 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", ["sam_b", "sam_l", "sam_h"])
def test_tensors_get_the_names_of_the_official_checkpoints(name: str) -> None:
    state = hollow(name)
    renamed = from_transformers_names(saved_by_transformers(state))
    assert {key: value.shape for key, value in renamed.items()} == {key: value.shape for key, value in state.items()}


def test_state_dicts_of_other_origin_are_left_as_they_are() -> None:
    state = {"image_encoder.pos_embed": torch.zeros(1), POSITIONS_OF_PROMPTS: torch.zeros(1)}
    assert from_transformers_names(state) == state
    both = {"image_encoder.pos_embed": torch.zeros(1), "vision_encoder.pos_embed": torch.ones(1)}
    assert from_transformers_names(both) == both


@pytest.mark.parametrize("prefix", ["", "sam.", "module.model."])
@pytest.mark.parametrize("dropped", [POSITIONS, POSITIONS_OF_PROMPTS])
def test_files_of_transformers_are_loaded(tiny_state: State, prefix: str, dropped: str) -> None:
    state = saved_by_transformers(tiny_state)
    del state[dropped]
    torch.save({prefix + key: value for key, value in state.items()}, "fine_tuned.pth")
    model = load_model("fine_tuned.pth")
    assert model.name == TINY and same(model, tiny_state)


@pytest.mark.parametrize("file_name", ["model.safetensors", "pytorch_model.bin"])
def test_folders_of_transformers_are_loaded(tiny_state: State, file_name: str) -> None:
    folder = Path("checkpoints") / "last"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    state = saved_by_transformers(tiny_state)
    if file_name == "model.safetensors":
        save_file(state, folder / file_name)
    else:
        torch.save(state, folder / file_name)
    assert same(SAM(folder).model, tiny_state)
    with pytest.raises(ValueError, match="not a file but a folder"):
        load_model("checkpoints")


def test_conversion_writes_official_names(tiny_state: State) -> None:
    torch.save(saved_by_transformers(tiny_state), "fine_tuned.bin")
    converted = convert_checkpoint("fine_tuned.bin", "out.safetensors")
    assert (converted.model, converted.tensors) == (TINY, len(tiny_state))
    assert same(load_model("out.safetensors"), tiny_state)


def test_a_missing_tensor_is_named_as_in_official_checkpoints(tiny_state: State) -> None:
    state = saved_by_transformers(tiny_state)
    del state["vision_encoder.neck.conv2.weight"]
    torch.save(state, "w.pt")
    with pytest.raises(ValueError, match=rf"looks like {TINY}, but 1 tensor missing: image_encoder\.neck\.2\.weight"):
        load_model("w.pt")


def test_masks_are_those_of_transformers(tiny_state: State) -> None:
    transformers: Any = pytest.importorskip("transformers", exc_type=ImportError)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 128,
            "global_attn_indexes": [1],
            "mlp_dim": 128,
        },
        prompt_encoder_config={"image_size": 128, "image_embedding_size": 8},
        mask_decoder_config={"layer_norm_eps": 1e-5},  # that of the reference; its own default is 1e-6
    )
    peer = transformers.SamModel(config).eval()
    peer.load_state_dict(saved_by_transformers(tiny_state))
    peer.save_pretrained("folder")
    model = load_model("folder")
    generator = torch.Generator().manual_seed(3)
    image, points = torch.randn(1, 3, 128, 128, generator=generator), torch.tensor([[[30.0, 40.0]], [[100.0, 9.0]]])
    labels = torch.ones(2, 1, dtype=torch.int64)
    with torch.no_grad():
        expected = peer(pixel_values=image, input_points=points[None], input_labels=labels[None], multimask_output=True)
        logits, predicted_iou = model.decode_prompts(model.encode_image(image), points, labels, multimask_output=True)

    def close(actual: Tensor, reference: Tensor) -> None:
        torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max()))

    close(logits, expected.pred_masks[0])
    close(predicted_iou, expected.iou_scores[0])
