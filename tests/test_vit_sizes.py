"""Tests of checkpoints whose models have the official layers, with a ViT of another size."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from fastsam_core import SAM
from fastsam_core.models import registry
from fastsam_core.models.checkpoint import identify, load_model
from fastsam_core.models.image_encoder import ImageEncoderViT
from fastsam_core.models.sam_model import SamModel
from fastsam_core.models.vit_sizes import vit_spec
from golden_recipe import fill_state_dict
from small_model import bgr_image
from weights_examples import State, empty_folders, hollow, same


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    return empty_folders(tmp_path, monkeypatch)


def make_model(
    width: int = 32,
    depth: int = 3,
    heads: int = 2,
    global_blocks: tuple[int, ...] = (2,),
    size: int = 128,
    window: int = 3,
    mlp: int = 128,
    channels: int = 32,
    decoder_mlp: int = 64,
) -> SamModel:
    def encoder() -> nn.Module:
        return ImageEncoderViT(
            size,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=(mlp + 0.5) / width,
            out_chans=channels,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=global_blocks,
        )

    spec = registry.ModelSpec("made", size, encoder, (), embed_dim=channels, decoder_mlp_dim=decoder_mlp)
    model = spec.build().eval()
    model.load_state_dict(fill_state_dict(model.state_dict()))
    return model


SIZES = {
    "small": make_model,
    "deeper": partial(make_model, depth=5, global_blocks=(0, 3)),
    "without windows": partial(make_model, window=0),
    "windows alone": partial(make_model, global_blocks=()),
    "windows larger than the grid": partial(make_model, size=64, window=14),
    "windows as large as the grid": partial(make_model, size=96, window=6),
    "pruned": partial(make_model, width=42, heads=3, mlp=49),
    "wider decoder": partial(make_model, channels=64, decoder_mlp=48),
}


@pytest.mark.parametrize("name", SIZES)
def test_models_of_other_sizes_compute_the_same(name: str) -> None:
    made = SIZES[name]()
    torch.save({"model": {"sam." + key: value for key, value in made.state_dict().items()}}, "fine_tuned.pth")
    model = load_model("fine_tuned.pth")
    encoder = made.image_encoder
    assert isinstance(encoder, ImageEncoderViT)
    width, depth = encoder.patch_embed.proj.out_channels, len(encoder.blocks)
    assert model.name == f"sam_vit_{width}x{depth}_{made.image_size}" and model.image_size == made.image_size
    assert same(model, made.state_dict())
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(1, 3, made.image_size, made.image_size, generator=generator)
    points, labels = torch.tensor([[[20.0, 30.0]], [[50.0, 9.0]]]), torch.ones(2, 1, dtype=torch.int64)
    with torch.inference_mode():
        embedding = model.encode_image(images)
        torch.testing.assert_close(embedding, made.encode_image(images), rtol=0, atol=0)
        logits, iou = model.decode_prompts(embedding, points, labels, multimask_output=True)
        expected_logits, expected_iou = made.decode_prompts(embedding, points, labels, multimask_output=True)
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=0)
    torch.testing.assert_close(iou, expected_iou, rtol=0, atol=0)


def test_sam_predicts_with_a_model_of_another_size() -> None:
    torch.save(make_model().state_dict(), "fine_tuned.pth")
    model = SAM("fine_tuned.pth")
    assert repr(model) == "SAM('fine_tuned.pth', sam_vit_32x3_128, cpu)"
    (result,) = model(bgr_image(60, 80), points=[30, 20], labels=[1], conf=-1e9, verbose=False)
    assert result.masks is not None and result.masks.shape == (1, 60, 80)


@pytest.mark.parametrize("name", ["sam_b", "sam_l", "sam_h"])
def test_sizes_of_official_models_are_read(name: str) -> None:
    with torch.device("meta"):
        built = registry.build(name)
    # The numbers may be anything, but must take memory; only integers of one byte fit three large models.
    state = {key: torch.empty(value.shape, dtype=torch.int8) for key, value in built.state_dict().items()}
    spec = vit_spec(state)
    assert spec is not None and (spec.embed_dim, spec.image_size, spec.decoder_mlp_dim) == (256, 1024, 2048)
    with torch.device("meta"):
        encoders = [built.image_encoder, spec.build().image_encoder]
    widths, windows, heads = zip(*map(_settings, encoders), strict=True)
    assert widths[0] == widths[1] and windows[0] == windows[1] and heads[0] == heads[1]


def _settings(encoder: nn.Module) -> tuple[dict[str, torch.Size], list[int], list[int]]:
    assert isinstance(encoder, ImageEncoderViT)
    shapes = {key: value.shape for key, value in encoder.state_dict().items()}
    attentions = [block.get_submodule("attn").num_heads for block in encoder.blocks]
    return shapes, [block.window_size for block in encoder.blocks], attentions  # type: ignore[misc,return-value]


def damaged(**changes: torch.Tensor | None) -> State:
    """Return the tensors of a model with some replaced, or left out where None is given."""
    state = {**make_model().state_dict(), **{key.replace("__", "."): value for key, value in changes.items()}}
    return {key: value for key, value in state.items() if value is not None}


BLOCK = "image_encoder__blocks__"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_encoder__neck__2__weight": None}, r"looks like sam_vit_32x3_128, but 1 tensor missing"),
        ({f"{BLOCK}1__adapter__weight": torch.ones(3)}, r"looks like sam_vit_32x3_128, but 1 tensor unexpected"),
        ({f"{BLOCK}1__mlp__lin1__weight": torch.ones(100, 32)}, r"lin1\.weight \(100, 32\) instead of \(128, 32\)"),
        ({"image_encoder__patch_embed__proj__weight": torch.ones(32, 3, 8, 8)}, r"\(32, 3, 8, 8\) instead of .*16, 16"),
        ({"image_encoder__pos_embed": torch.ones(1, 8, 9, 32)}, r"\(1, 8, 9, 32\) instead of \(1, 8, 8, 32\)"),
        ({f"{BLOCK}0__attn__rel_pos_h": torch.ones(7, 16)}, "SAM variant"),
        ({f"{BLOCK}0__attn__rel_pos_h": torch.ones(5, 15)}, "SAM variant"),
        ({f"{BLOCK}0__attn__rel_pos_h": None}, "SAM variant"),
        ({"image_encoder__pos_embed": None}, "SAM variant"),
        ({"image_encoder__pos_embed": torch.ones(8, 8, 32)}, "SAM variant"),
        ({"image_encoder__neck__0__weight": torch.ones(40, 32, 1, 1)}, "SAM variant"),
        ({"image_encoder__neck__0__weight": torch.ones(0, 32, 1, 1)}, "SAM variant"),
    ],
)
def test_tensors_of_no_model_are_refused(changes: dict[str, torch.Tensor | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        identify(damaged(**changes))


def test_tensors_that_claim_more_memory_than_they_take_are_refused() -> None:
    """A small file could otherwise make the loader ask for any amount of memory."""
    state = make_model().state_dict()
    repeated = {key: torch.ones(()).expand(value.shape) for key, value in state.items()}
    shared = torch.ones(100_000)
    for claim in (repeated, {key: shared[: value.numel()].view(value.shape) for key, value in state.items()}):
        with pytest.raises(ValueError, match="SAM variant"):
            identify(claim)
    assert identify(hollow("sam_b")) is registry.MODELS["sam_b"]
