"""Tests loading of SAM checkpoints: which model is recognised, and the errors for files that hold something else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fastsam_core.models import registry
from fastsam_core.models.checkpoint import identify, load_model, load_state_dict
from weights_examples import NANO, State, empty_folders, hollow, nano_state, same


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    return empty_folders(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def nano() -> State:
    return nano_state()


@pytest.mark.parametrize("name", registry.MODELS)
def test_models_are_identified_by_their_tensors(name: str) -> None:
    state, spec = hollow(name), registry.MODELS[name]
    assert identify(state) is spec
    assert identify(state, registry.MODELS["sam_b"]) is identify(state, spec) is spec
    extra = {prefix + "weight": torch.zeros(2) for prefix in spec.ignored_keys}
    assert identify({**state, **extra}) is spec


def test_classifier_tensors_of_mobile_sam_are_ignored() -> None:
    torch.manual_seed(0)
    state = registry.build("mobile_sam").state_dict()
    extra = {"image_encoder.head.weight": torch.zeros(10, 320), "image_encoder.norm_head.bias": torch.zeros(320)}
    torch.save({**state, **extra}, "mobile_sam.pt")
    model = load_model("mobile_sam.pt")
    assert model.name == "mobile_sam" and same(model, state)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0.conv.weight", "2.cv1.conv.weight"], "YOLO"),
        (["model.0.conv.weight", "model.2.cv1.conv.weight", "names"], "YOLO"),
        (["memory_attention.layers.0.norm1.weight", "image_encoder.trunk.pos_embed"], "SAM 2"),
        (["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], "ResNet"),
        (["cls_token", "blocks.0.attn.qkv.weight"], "plain vision transformer"),
        (["image_encoder.backbone.input_stem.op_list.0.conv.weight"], "another image encoder"),
        (["mask_decoder.hf_token.weight", "image_encoder.pos_embed"], "HQ-SAM"),
        (["mask_decoder.hq_token.weight", "other.pos_embed"], "HQ-SAM"),
        (["encoder_x", "foo"], "Expected"),
    ],
)
def test_foreign_checkpoints_are_named(names: list[str], message: str) -> None:
    torch.save({name: torch.zeros(2) for name in names}, "w.pt")
    with pytest.raises(ValueError, match=rf"w\.pt: found {len(names)} tensors? \({names[0]}.*{message}") as caught:
        load_model("w.pt")
    assert "Expected the state dict of one of: sam_b, sam_l, sam_h, mobile_sam, sam_nano" in str(caught.value)


def test_error_for_official_name_says_which_model_was_expected() -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(2)}, "sam_b.pt")
    with pytest.raises(ValueError, match=r"found 1 tensor .*ResNet.*Expected the state dict of sam_b"):
        load_model("sam_b.pt")


def test_damaged_state_dicts_are_listed(nano: State) -> None:
    keys = [key for key in nano if not key.endswith("num_batches_tracked")]
    state = {key: value for key, value in nano.items() if key not in keys[:6]}
    state[keys[10]] = torch.zeros(1, 2, 3)
    state["surplus"] = torch.zeros(1)
    torch.save(state, "w.pt")
    with pytest.raises(ValueError) as caught:
        load_model("w.pt")
    message = str(caught.value)
    assert "looks like sam_nano" in message
    assert f"6 tensors missing: {', '.join(keys[:4])}..." in message
    assert "1 tensor unexpected: surplus" in message
    assert f"{keys[10]} (1, 2, 3) instead of {tuple(nano[keys[10]].shape)}" in message


def test_integer_weights_are_refused(nano: State) -> None:
    key = next(key for key in nano if nano[key].ndim == 2)
    shape = rf"\({', '.join(map(str, nano[key].shape))}\)"
    with pytest.raises(ValueError, match=f"1 tensor of another shape or type: {key} {shape} int8 instead of {shape}"):
        identify({**nano, key: nano[key].to(torch.int8)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinite_weights_are_refused(nano: State, value: float) -> None:
    key = next(key for key in nano if nano[key].ndim == 2)
    spoilt = {**nano, key: nano[key].clone()}
    spoilt[key][0, 1] = value
    torch.save(spoilt, "w.pt")
    with pytest.raises(ValueError, match=f"w.pt: NaN or infinite numbers in 1 tensor, such as {key}"):
        load_model("w.pt")
    spoilt[key][0, :2] = torch.finfo(torch.float32).max
    torch.save(spoilt, "w.pt")
    assert torch.equal(load_model("w.pt").state_dict()[key], spoilt[key])


def test_official_name_must_hold_its_model(nano: State, folders: tuple[Path, Path]) -> None:
    torch.save(nano, "sam_l.pt")
    with pytest.raises(ValueError, match=r"sam_l\.pt: the file name stands for sam_l, but .* are those of sam_nano"):
        load_model("sam_l.pt")
    torch.save(nano, "my_sam_l.pt")
    assert load_model("my_sam_l.pt").name == NANO


def test_load_state_dict_refuses_other_models(nano: State) -> None:
    model, spec = registry.build(NANO), registry.MODELS[NANO]
    load_state_dict(model, nano, spec)
    assert same(model, nano)
    with pytest.raises(ValueError, match="not the weights of sam_nano: "):
        load_state_dict(model, hollow("mobile_sam"), spec)


def test_unknown_device_is_refused(nano: State) -> None:
    save_file(nano, "w.safetensors")
    with pytest.raises(ValueError, match="device='gpu'"):
        load_model("w.safetensors", "gpu")


@torch.inference_mode()
def test_weights_loaded_in_inference_mode_are_normal_tensors() -> None:
    model = load_model("sam_nano.pt")
    for move in (model.eval, model.double, model.float):
        move()
        assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
    made_there = registry.build("sam_nano")
    assert made_there.double().dtype == torch.float64 and made_there.mask_decoder.iou_token.weight.is_inference()
