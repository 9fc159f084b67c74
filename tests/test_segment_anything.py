"""The interface of Meta's package: reference outputs on golden weights, types, shapes, order and errors."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import golden_recipe
from fastsam_core import SAM, Predictor, segment_anything
from fastsam_core.models import registry
from fastsam_core.segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from fastsam_core.segment_anything.utils.transforms import ResizeLongestSide
from small_model import QUIET, small_model, small_weights

DATA = Path(__file__).parent / "data"
GOLDEN = np.load(DATA / "mobile_sam.npz")
HEIGHT, WIDTH = 48, 80


@pytest.fixture(scope="module")
def sam() -> segment_anything.Sam:
    """Return sam_nano with the recipe's weights and an input size of 128."""
    model = segment_anything.build_sam_nano(None)
    model.load_state_dict(small_weights())
    model.set_image_size(128)
    return model


@pytest.fixture
def predictor(sam: segment_anything.Sam) -> SamPredictor:
    predictor = SamPredictor(sam)
    predictor.set_image(golden_recipe.test_image(HEIGHT, WIDTH))
    return predictor


# ---------------------------------------------------------------------------------------------- the reference's numbers


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> SamPredictor:
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(golden_recipe.fill_state_dict(registry.build("mobile_sam").state_dict()), path)
    predictor = SamPredictor(sam_model_registry["vit_t"](checkpoint=str(path)))
    predictor.set_image(golden_recipe.test_image(720, 1280))
    return predictor


TOLERANCE = {"rtol": 2**-11, "atol": 5e-4}  # the stored logits are float16
SIZE = np.array([1280, 720])
BOX = np.array([0.2, 0.2, 0.7, 0.9]) * np.tile(SIZE, 2)
PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"point_coords": np.array([[0.5, 0.55]]) * SIZE, "point_labels": np.array([1])},
    "points3": {
        "point_coords": np.array([[0.3, 0.4], [0.5, 0.55], [0.8, 0.2]]) * SIZE,
        "point_labels": np.array([1, 1, 0]),
    },
    "box": {"box": BOX},
    "box_point": {"box": BOX[None], "point_coords": np.array([[0.3, 0.3]]) * SIZE, "point_labels": np.array([0])},
}


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("name", PROMPTS)
def test_predict_matches_reference(mobile: SamPredictor, name: str, multimask_output: bool) -> None:
    key = f"{name}.multi{int(multimask_output)}"
    masks, scores, low_res = mobile.predict(**PROMPTS[name], multimask_output=multimask_output)
    count = 3 if multimask_output else 1
    assert masks.shape == (count, 720, 1280) and masks.dtype == bool
    assert scores.shape == (count,) and scores.dtype == np.float32
    assert low_res.shape == (count, 256, 256) and low_res.dtype == np.float32
    np.testing.assert_allclose(low_res, GOLDEN[f"{key}.low_res"].astype(np.float32), **TOLERANCE)
    np.testing.assert_allclose(scores, GOLDEN[f"{key}.iou"], atol=2e-4)
    np.testing.assert_allclose(masks.sum((1, 2)), GOLDEN[f"{key}.area"], rtol=0.005)


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize("name", PROMPTS)
def test_prompt_encoder_and_decoder_match_reference(mobile: SamPredictor, name: str, multimask_output: bool) -> None:
    sam, prompt = mobile.model, PROMPTS[name]
    points = boxes = None
    if "point_coords" in prompt:
        coords = mobile.transform.apply_coords(prompt["point_coords"], mobile.original_size)
        points = torch.as_tensor(coords, dtype=torch.float)[None], torch.as_tensor(prompt["point_labels"])[None]
    if "box" in prompt:
        boxes = torch.as_tensor(mobile.transform.apply_boxes(prompt["box"], mobile.original_size))[:, None]
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    low_res, scores = sam.mask_decoder(
        image_embeddings=mobile.features,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
    )
    assert dense.shape == (1, 256, 64, 64) and low_res.requires_grad
    key = f"{name}.multi{int(multimask_output)}"
    np.testing.assert_allclose(low_res[0].detach(), GOLDEN[f"{key}.low_res"].astype(np.float32), **TOLERANCE)
    np.testing.assert_allclose(scores[0].detach(), GOLDEN[f"{key}.iou"], atol=2e-4)


def test_mask_input_and_return_logits_match_reference(mobile: SamPredictor) -> None:
    logits, _, low_res = mobile.predict(**PROMPTS["point"], return_logits=True)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits[:, ::8, ::8], GOLDEN["point.mask_full_sample"].astype(np.float32), **TOLERANCE)
    _, scores, refined = mobile.predict(**PROMPTS["point"], mask_input=low_res[:1], multimask_output=False)
    np.testing.assert_allclose(refined, GOLDEN["mask_point.multi0.low_res"].astype(np.float32), **TOLERANCE)
    np.testing.assert_allclose(scores, GOLDEN["mask_point.multi0.iou"], atol=2e-4)


def test_image_embedding_matches_reference(mobile: SamPredictor) -> None:
    embedding = mobile.get_image_embedding()
    assert embedding.shape == (1, 256, 64, 64) and embedding is mobile.features and mobile.is_image_set
    assert np.abs(embedding.flatten()[GOLDEN["embedding_idx"]].numpy() - GOLDEN["embedding_val"]).max() < 2e-4
    assert mobile.model.image_encoder.img_size == 1024 and mobile.transform.target_length == 1024


def test_predict_matches_fastsam_predictor(predictor: SamPredictor) -> None:
    ours = Predictor(overrides={**QUIET, "model": small_model()})
    ours.set_image(golden_recipe.test_image(HEIGHT, WIDTH)[..., ::-1].copy())
    box, point = [4.0, 6.0, 40.0, 30.0], [20.0, 25.0]
    (result,) = ours(bboxes=box, points=[[point]], labels=[[1]], multimask_output=True)
    masks, scores, _ = predictor.predict(np.array([point]), np.array([1]), np.array(box))
    np.testing.assert_array_equal(masks, result.masks.data.numpy())
    # SamPredictor scales coordinates in float64, as Meta's does; Predictor scales them in float32.
    np.testing.assert_allclose(scores, result.predicted_iou.numpy(), atol=1e-5)


def test_sam_sharing_modules_may_use_another_input_size() -> None:
    image, ours = golden_recipe.test_image(HEIGHT, WIDTH), SAM(small_model())
    ours.model.set_image_size(128)
    predictor = SamPredictor(ours)
    generator = SamAutomaticMaskGenerator(ours, 2, pred_iou_thresh=0, stability_score_thresh=0)
    predictor.set_image(image)

    def predict() -> Any:
        return predictor.predict(box=np.array([10, 5, 50, 40]))

    for ask in (predict, lambda: [predictor.set_image(image), *predict()], lambda: generator.generate(image)):
        expected = ask()
        ours(image, bboxes=[10, 5, 50, 40], **{**QUIET, "imgsz": 64})
        np.testing.assert_equal(ask(), expected)
    ours(image, bboxes=[], **{**QUIET, "imgsz": 64})
    assert SamPredictor(ours).transform.target_length == 128


def test_bgr_images_and_resized_tensors(sam: segment_anything.Sam, predictor: SamPredictor) -> None:
    image = golden_recipe.test_image(HEIGHT, WIDTH)
    other = SamPredictor(sam)
    other.set_image(image[..., ::-1], image_format="BGR")
    assert torch.equal(other.get_image_embedding(), predictor.get_image_embedding())
    scaled = torch.from_numpy(other.transform.apply_image(image).copy()).permute(2, 0, 1)[None]
    other.set_torch_image(scaled, (HEIGHT, WIDTH))
    assert other.input_size == (77, 128) and other.original_size == (HEIGHT, WIDTH)
    torch.testing.assert_close(other.get_image_embedding(), predictor.get_image_embedding(), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="long side of 128, not"):
        other.set_torch_image(scaled[..., :100], (HEIGHT, WIDTH))


def test_predict_torch_with_batched_prompts(predictor: SamPredictor) -> None:
    boxes = torch.tensor([[4.0, 6, 40, 30], [20, 10, 60, 40]])
    scaled = predictor.transform.apply_boxes_torch(boxes, (HEIGHT, WIDTH))
    masks, scores, low_res = predictor.predict_torch(None, None, scaled, None, False)
    assert (masks.shape, masks.dtype) == ((2, 1, HEIGHT, WIDTH), torch.bool)
    assert scores.shape == (2, 1) and low_res.shape == (2, 1, 32, 32)
    for place, box in enumerate(boxes.numpy()):
        alone, score, logits = predictor.predict(box=box, multimask_output=False)
        np.testing.assert_array_equal(alone, masks[place].numpy())
        np.testing.assert_allclose(score, scores[place].numpy(), atol=1e-5)
        np.testing.assert_allclose(logits, low_res[place].numpy(), atol=1e-4)
    points = predictor.transform.apply_coords_torch(torch.tensor([[[20.0, 25], [60, 10]]] * 3), (HEIGHT, WIDTH))
    labels = torch.tensor([[1, 0]] * 3)
    logits, scores, _ = predictor.predict_torch(points, labels, mask_input=low_res[:1], return_logits=True)
    assert logits.shape == (3, 3, HEIGHT, WIDTH) and logits.dtype == torch.float32 and scores.shape == (3, 3)
    masks, _, _ = predictor.predict_torch(points, labels, mask_input=low_res[:1].expand(3, -1, -1, -1))
    assert torch.equal(masks, logits > 0)
    none = torch.zeros(0, 1, 2), torch.zeros(0, 1, dtype=torch.int)
    for logits_wanted in (False, True):
        masks, scores, low_res = predictor.predict_torch(*none, return_logits=logits_wanted)
        assert masks.shape == (0, 3, HEIGHT, WIDTH) and scores.shape == (0, 3) and low_res.shape == (0, 3, 32, 32)


@pytest.mark.parametrize("prompt", ["nothing", "boxes", "points", "points and boxes", "masks", "points and masks"])
@pytest.mark.parametrize("multimask_output", [False, True])
def test_module_calls_match_decode_prompts(
    sam: segment_anything.Sam, predictor: SamPredictor, prompt: str, multimask_output: bool
) -> None:
    boxes = torch.tensor([[4.0, 6, 90, 60], [20, 10, 60, 70]]) if "boxes" in prompt else None
    points = torch.tensor([[[30.0, 30], [70, 50]], [[40, 20], [9, 9]]]) if "points" in prompt else None
    labels = None if points is None else torch.tensor([[1, 0], [1, 1]])
    masks = torch.linspace(-9, 9, 2 * 32 * 32).view(2, 1, 32, 32) if "masks" in prompt else None
    embedding = predictor.get_image_embedding()
    sparse, dense = sam.prompt_encoder(
        points=None if points is None or labels is None else (points, labels),
        boxes=None if boxes is None else boxes[:, None],
        masks=masks,
    )
    count = 1 if prompt == "nothing" else 2
    assert len(sparse) == count and dense.shape == (count, sam.prompt_encoder.embed_dim, 8, 8)
    low_res, predicted_iou = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=multimask_output,
    )
    assert low_res.shape == (count, 3 if multimask_output else 1, 32, 32) and low_res.requires_grad
    if prompt != "nothing":
        expected, scores = sam.decode_prompts(embedding, points, labels, boxes, masks, multimask_output)
        bounded = sam.mask_scoring.clip_to_boxes(low_res, boxes, points, labels)
        torch.testing.assert_close(bounded, expected, rtol=1e-4, atol=1e-4)
        judged = sam.mask_scoring.predicted_iou(predicted_iou, low_res)
        torch.testing.assert_close(judged, scores, rtol=1e-4, atol=1e-4)


def test_saved_embedding_can_be_restored(sam: segment_anything.Sam, predictor: SamPredictor) -> None:
    expected = predictor.predict(box=np.array([4, 6, 40, 30]))
    kept = predictor.features, predictor.original_size, predictor.input_size
    predictor.set_image(np.zeros((20, 30, 3), np.uint8))
    predictor.predict(box=np.array([4, 6, 12, 15]))
    other = SamPredictor(sam)
    for one in (predictor, other):
        one.features, one.original_size, one.input_size = kept
        one.is_image_set = True
        for array, wanted in zip(one.predict(box=np.array([4, 6, 40, 30])), expected, strict=True):
            np.testing.assert_array_equal(array, wanted)


def test_predictor_refuses_invalid_input(predictor: SamPredictor) -> None:
    with pytest.raises(ValueError, match="image_format must be"):
        predictor.set_image(np.zeros((4, 4, 3), np.uint8), "HSV")
    with pytest.raises(TypeError, match="a NumPy array"):
        predictor.set_image("photo.jpg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"image must be \(H, W, 3\), not \(5,\)"):
        predictor.set_image(np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        predictor.set_image(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="point_labels are needed"):
        predictor.predict(np.array([[1, 2]]))
    with pytest.raises(ValueError, match=r"one object's \(4,\), not \(2, 4\); predict_torch"):
        predictor.predict(box=np.array([[4, 6, 40, 30]] * 2))
    assert predictor.predict(box=np.array([[4, 6, 40, 30]]))[0].shape[0] == 3
    assert predictor.predict(box=torch.tensor([4, 6, 40, 30]))[0].shape[0] == 3
    for nothing in (np.zeros((0, 2)), np.array([]), []):  # as when a tool has removed all clicks
        assert predictor.predict(nothing, np.zeros(0))[0].shape[0] == 3
    logits = np.random.default_rng(0).normal(size=(1, 1, 32, 32))
    one, other, whole = (predictor.predict(mask_input=given)[1] for given in (logits[0, 0], logits[0], logits))
    assert (one == other).all() and (one == whole).all()
    assert predictor.is_image_set  # the refused calls didn't change the image
    predictor.reset_image()
    assert not predictor.is_image_set and predictor.features is None
    for call in (predictor.predict, predictor.get_image_embedding, lambda: predictor.predict_torch(None, None)):
        with pytest.raises(RuntimeError, match=r"call set_image\(...\)"):
            call()
    with pytest.raises(TypeError, match="made by sam_model_registry or SAM is needed, not str"):
        SamPredictor("vit_b")


def test_without_prompts_one_object_is_decoded_from_the_image_alone(sam: segment_anything.Sam) -> None:
    """As in Meta's package: models fine-tuned to need no prompts are called so, and `predict()` has only defaults."""
    image = golden_recipe.test_image(HEIGHT, WIDTH)
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
    scaled = torch.from_numpy(predictor.transform.apply_image(image).copy()).permute(2, 0, 1)
    for multimask_output, count in ((True, 3), (False, 1)):
        with torch.no_grad():
            expected, expected_scores = sam.mask_decoder(
                image_embeddings=predictor.features,
                image_pe=sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask_output,
            )
        masks, scores, low_res = predictor.predict(multimask_output=multimask_output)
        assert masks.shape == (count, HEIGHT, WIDTH) and masks.dtype == bool
        np.testing.assert_allclose(low_res, expected[0].numpy(), atol=1e-4)
        wanted_scores = sam.mask_scoring.predicted_iou(expected_scores, expected)
        np.testing.assert_allclose(scores, wanted_scores[0].numpy(), atol=1e-4)
        batched = sam([{"image": scaled, "original_size": (HEIGHT, WIDTH)}], multimask_output)[0]
        assert batched["masks"].shape == (1, count, HEIGHT, WIDTH)
        torch.testing.assert_close(batched["low_res_logits"], expected, rtol=0, atol=1e-3)


# ------------------------------------------------------------------------------------------------------- the generator


def test_model_registry_builds_and_loads_models(tmp_path: Path) -> None:
    assert set(sam_model_registry) >= {"default", "vit_h", "vit_l", "vit_b", "vit_t"}
    assert sam_model_registry["default"] is segment_anything.build_sam is segment_anything.build_sam_vit_h
    torch.save(small_weights(), tmp_path / "any.pth")
    model = sam_model_registry["sam_nano"](checkpoint=tmp_path / "any.pth")
    assert not model.training and model.image_encoder.img_size == 512 and model.mask_threshold == 0.0
    assert model.to(device="cpu") is model and model.device == torch.device("cpu") == SamPredictor(model).device
    assert set(model.state_dict()) == set(small_weights())
    model.set_image_size(128)
    assert model.image_encoder.img_size == 128
    with pytest.raises(ValueError, match=r"any\.pth holds sam_nano, but sam_b was asked for"):
        sam_model_registry["vit_b"](checkpoint=tmp_path / "any.pth")
    untrained = segment_anything.build_sam_vit_t()
    assert untrained.name == "mobile_sam" and not untrained.training
    bundled = segment_anything.build_sam_nano()
    shared = SamPredictor(SAM(bundled))
    assert shared.model.image_encoder is bundled.image_encoder and SamPredictor(bundled).model is bundled


def test_batched_input_matches_predictor(sam: segment_anything.Sam, predictor: SamPredictor) -> None:
    """`model(batched_input)` gives the same masks as the predictor does for each image."""
    records, expected = [], []
    for size, box in ((HEIGHT, WIDTH), [4.0, 6, 40, 30]), ((90, 60), [10.0, 20, 50, 80]):
        image = golden_recipe.test_image(*size)
        predictor.set_image(image)
        boxes = predictor.transform.apply_boxes_torch(torch.tensor([box]), size)
        scaled = torch.from_numpy(predictor.transform.apply_image(image).copy()).permute(2, 0, 1)
        records.append({"image": scaled, "original_size": size, "boxes": boxes})
        expected.append(predictor.predict_torch(None, None, boxes))
    for output, (masks, scores, low_res) in zip(sam(records, multimask_output=True), expected, strict=True):
        assert list(output) == ["masks", "iou_predictions", "low_res_logits"]
        torch.testing.assert_close(output["iou_predictions"], scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(output["low_res_logits"], low_res, rtol=0, atol=1e-3)
        assert output["masks"].shape == masks.shape
        assert (output["masks"] != masks).float().mean() < 1e-3


@pytest.mark.parametrize("size", [(48, 80), (2048, 201), (7, 7)])
def test_resize_longest_side(size: tuple[int, int]) -> None:
    transform = ResizeLongestSide(64)
    height, width = size
    scale = 64 / max(size)
    new = int(height * scale + 0.5), int(width * scale + 0.5)
    assert transform.get_preprocess_shape(*size, 64) == new
    coords = np.array([[[1, 2], [3.5, 6]]])
    kept = coords.copy()
    scaled = transform.apply_coords(coords, size)
    assert scaled.dtype == np.float64 and scaled.shape == coords.shape
    np.testing.assert_allclose(scaled, coords * [new[1] / width, new[0] / height])
    np.testing.assert_array_equal(coords, kept)
    assert transform.apply_boxes(np.array([1, 2, 3, 4]), size).shape == (1, 4)
    tensor = torch.from_numpy(coords).half()
    moved = transform.apply_coords_torch(tensor, size)
    assert moved.dtype == torch.float32 and torch.equal(tensor, torch.from_numpy(coords).half())
    np.testing.assert_allclose(moved, scaled, rtol=1e-6)
    assert transform.apply_boxes_torch(torch.ones(3, 4), size).shape == (3, 4)
    image = golden_recipe.test_image(*size)
    assert transform.apply_image(image).shape == (*new, 3)
    np.testing.assert_array_equal(transform.apply_image(image[..., 1]), transform.apply_image(image)[..., 1])
    near = transform.apply_image_torch(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    assert near.shape == (1, 3, *new)
    difference = near[0].permute(1, 2, 0).numpy() - transform.apply_image(image).astype(float)
    assert np.abs(difference).max() < 1.5


def test_resize_longest_side_says_which_images_it_takes() -> None:
    transform = ResizeLongestSide(64)
    with pytest.raises(ValueError, match=r"a mask must be uint8 \(H, W\), not bool \(48, 80\)"):
        transform.apply_image(np.zeros((48, 80), bool))
    with pytest.raises(ValueError, match=r"a batch \(B, C, H, W\), not \(3, 48, 80\)"):
        transform.apply_image_torch(torch.zeros(3, 48, 80))


def test_install_registers_modules_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(sys.modules)
    try:
        segment_anything.install("meta_alias")
        assert importlib.import_module("meta_alias").SamPredictor is SamPredictor
        assert importlib.import_module("meta_alias.utils.transforms").ResizeLongestSide is ResizeLongestSide
        assert importlib.import_module("meta_alias.modeling").Sam is segment_anything.Sam
        segment_anything.install("meta_alias")
    finally:
        for name in set(sys.modules) - before:
            if name.startswith("meta_alias"):
                del sys.modules[name]
    monkeypatch.setitem(sys.modules, "meta_alias", sys)
    with pytest.raises(RuntimeError, match="meta_alias is imported already"):
        segment_anything.install("meta_alias")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"point_coords": np.zeros((1, 1, 2)), "point_labels": np.ones((1, 1))}, r"be \(P, 2\) x, y, not \(1, 1, 2\)"),
        ({"point_coords": [[10], [20]], "point_labels": [1, 1]}, r"must be \(P, 2\) x, y, not \(2, 1\)"),
        ({"point_coords": 5, "point_labels": [1]}, r"must be \(P, 2\) x, y, not \(\)"),
        ({"point_coords": [[1, 2]], "point_labels": [1, 1]}, "one for each of the points"),
        ({"point_coords": [[1, 2]], "point_labels": [5]}, "point_labels must be 1"),
        ({"point_coords": [[1, np.nan]], "point_labels": [1]}, "point_coords must be finite"),
        ({"point_coords": [[1e30, 2]], "point_labels": [1]}, "point_coords must be finite"),
        ({"box": [1, 2, 3, np.inf]}, "box must be finite"),
        *(
            ({"mask_input": np.zeros(shape)}, r"mask_input must be finite logits \(1, 128, 128\), not")
            for shape in ((5, 5), (1, 5, 5), (3, 128, 128), (1, 1, 1, 5, 5), ())
        ),
        ({"mask_input": np.full((1, 128, 128), np.nan)}, "mask_input must be finite logits, at most 1e.15"),
        ({"mask_input": np.full((1, 128, 128), -1e30)}, "mask_input must be finite logits, at most 1e.15"),
    ],
)
def test_malformed_prompts_are_refused(prompt: dict[str, Any], said: str) -> None:
    predictor = SamPredictor(small_model())
    predictor.set_image(np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ValueError, match=said):
        predictor.predict(**prompt)


@pytest.mark.parametrize(
    ("prompt", "error", "said"),
    [
        ({"point_coords": [[[1, 2]]]}, TypeError, "^points must be a tensor, not list"),
        ({"point_labels": np.ones((1, 1))}, TypeError, "^labels must be a tensor, not ndarray"),
        ({"boxes": [1, 2, 3, 4]}, TypeError, "^boxes must be a tensor, not list"),
        ({"boxes": torch.zeros(2, 3)}, ValueError, r"^boxes must be \(B, 4\) x1, y1, x2, y2, not \(2, 3\)"),
        ({"mask_inputs": np.zeros((1, 1, 128, 128))}, TypeError, "^masks?(_input)? must be a tensor, not ndarray"),
    ],
)
def test_malformed_prompts_of_several_objects_are_refused(
    prompt: dict[str, Any], error: type[Exception], said: str
) -> None:
    predictor = SamPredictor(small_model())
    predictor.set_image(np.zeros((20, 30, 3), np.uint8))
    sam = predictor.model
    prompts = {"point_coords": torch.zeros(1, 1, 2), "point_labels": torch.ones(1, 1)} | prompt
    record = {"image": torch.zeros(3, sam.image_size, sam.image_size), "original_size": (20, 30)}
    with pytest.raises(error, match=said):
        sam([record | prompts], multimask_output=True)
    with pytest.raises(error, match=said):
        predictor.predict_torch(**{key.removesuffix("s") if "mask" in key else key: v for key, v in prompts.items()})


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        (np.zeros((3, 8, 8)), TypeError, "image must be a tensor, not ndarray"),
        (torch.zeros(8), ValueError, r"image must be \(3, h, w\), not \(8,\)"),
    ],
)
def test_malformed_image_of_a_batch_is_refused(image: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        SamPredictor(small_model()).model([{"image": image, "original_size": (20, 30)}], multimask_output=True)


@pytest.mark.filterwarnings("error")
def test_prompt_arrays_may_be_flipped_read_only_or_of_another_byte_order() -> None:
    predictor = SamPredictor(small_model())
    predictor.set_image(np.zeros((20, 30, 3), np.uint8))
    points, labels = np.array([[3, 4], [20, 10]]), np.array([1, 0])
    logits = np.random.default_rng(0).normal(size=(1, 128, 128)).astype(np.float32)
    expected = predictor.predict(points, labels, mask_input=logits)
    flipped = np.flip(logits.copy(), 2).copy()[..., ::-1]
    read_only = np.broadcast_to(logits, logits.shape)
    for mask in (flipped, read_only, logits.astype(">f4"), torch.from_numpy(logits)):
        coords, signs = points[::-1].copy()[::-1].astype(">f8"), labels[::-1].copy()[::-1].astype(">i4")
        for array, wanted in zip(predictor.predict(coords, signs, mask_input=mask), expected, strict=True):
            np.testing.assert_array_equal(array, wanted)
