"""Text detectors with tiny, randomly initialised models of transformers, compared with that package's own results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastsam_core import SAM
from fastsam_core.detect import from_transformers, load_text_detector
from fastsam_core.detect.clip import ClipMatcher
from fastsam_core.detect.open_vocabulary import OpenVocabularyDetector
from small_model import QUIET, bgr_image, small_model

IMAGE = bgr_image(48, 64)
TINY: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="the extra `text` is not installed")


def tiny_bert_tokenizer(transformers: Any, folder: Path) -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "a", "dog", "red", "car", "cat"]
    (folder / "vocab.txt").write_text("\n".join(words))
    return transformers.BertTokenizer(str(folder / "vocab.txt"))


def tiny_dino(transformers: Any, folder: Path) -> tuple[Any, Any]:
    torch.manual_seed(0)
    tokenizer = tiny_bert_tokenizer(transformers, folder)
    text = {**TINY, "vocab_size": len(tokenizer)}
    swin = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 4, "image_size": 64}
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(**swin, out_features=["stage2", "stage3", "stage4"]),
        text_config=transformers.BertConfig(**text),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=12,
        max_text_len=32,
        encoder_n_points=2,
        decoder_n_points=2,
    )
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    model = transformers.GroundingDinoForObjectDetection(config)
    return model, transformers.GroundingDinoProcessor(images, tokenizer)


def test_grounding_dino_matches_processor(transformers: Any, tmp_path: Path) -> None:
    """Detections agree with the processor's own post-processing."""
    model, processor = tiny_dino(transformers, tmp_path)
    detector = OpenVocabularyDetector(model, processor, conf=0.0, iou=1.0, device="cpu")
    found = detector.find(IMAGE, ["a dog", "red car"])
    assert len(found.boxes) == 12 and set(found.class_ids.tolist()) <= {0, 1}
    shown = Image.fromarray(np.ascontiguousarray(IMAGE[..., ::-1]))
    inputs = processor(images=shown, text="a dog . red car .", return_tensors="pt")
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    # Thresholds are positional because older versions name them differently.
    (said,) = processor.post_process_grounded_object_detection(outputs, inputs["input_ids"], 0.0, 0.0, [(48, 64)])
    expected = said["boxes"].numpy().clip(0, [64, 48, 64, 48])
    np.testing.assert_allclose(np.sort(found.boxes, 0), np.sort(expected, 0), atol=1e-3)
    likely = outputs.logits[0].sigmoid()
    dog, car = likely[:, 1:3].max(1).values, likely[:, 4:6].max(1).values
    np.testing.assert_allclose(np.sort(found.scores), np.sort(torch.maximum(dog, car).numpy()), rtol=1e-5)


def test_sam_with_grounding_dino(transformers: Any, tmp_path: Path) -> None:
    model, processor = tiny_dino(transformers, tmp_path)
    finder = OpenVocabularyDetector(model, processor, conf=0.0, device="cpu")
    options = {key: value for key, value in QUIET.items() if key != "save"}
    (result,) = SAM(small_model())(IMAGE, texts=["a dog"], text_model=finder, **options)
    assert len(result) > 0 and result.names == {0: "a dog"}


def test_model_is_loaded_from_its_folder(transformers: Any, tmp_path: Path) -> None:
    model, processor = tiny_dino(transformers, tmp_path)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    loaded = load_text_detector(["a dog", "red car"], str(tmp_path / "model"), conf=0.0, device="cpu")
    direct = from_transformers(model, processor, texts=["a dog", "red car"], conf=0.0, device="cpu")
    np.testing.assert_allclose(loaded(IMAGE).boxes, direct(IMAGE).boxes, atol=1e-3)
    assert loaded.fingerprint == direct.fingerprint


def test_missing_model_is_refused(transformers: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"can't load the model '.*nothing': .* give the folder"):
        load_text_detector("a dog", str(tmp_path / "nothing"), device="cpu")


def test_only_one_file_is_requested_without_a_connection(transformers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    asked: list[str] = []

    def unreachable(kind: str) -> Any:
        def load(name: str) -> None:
            asked.append(kind)
            raise OSError("no connection")

        return load

    for kind in ("AutoConfig", "AutoProcessor", "CLIPProcessor"):
        monkeypatch.setattr(getattr(transformers, kind), "from_pretrained", unreachable(kind))
    for make in (OpenVocabularyDetector, ClipMatcher):
        with pytest.raises(FileNotFoundError, match="no connection"):
            make("somebody/something", device="cpu")
        with pytest.raises(FileNotFoundError, match="the model '/home/me/folder': no connection"):
            make(Path("~/folder"), device="cpu")
    assert asked == ["AutoConfig"] * 4


def tiny_clip_tokenizer(transformers: Any, folder: Path) -> Any:
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def tiny_clip_config(vocabulary: int) -> dict[str, Any]:
    text = {**TINY, "vocab_size": vocabulary, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}
    return {"text_config": text, "vision_config": {**TINY, "image_size": 32, "patch_size": 8}, "projection_dim": 16}


def test_owlv2_matches_processor_and_limits_texts(transformers: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_clip_tokenizer(transformers, tmp_path)
    config = transformers.Owlv2Config(**tiny_clip_config(len(tokenizer)))
    model = transformers.Owlv2ForObjectDetection(config)
    images = transformers.Owlv2ImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.Owlv2Processor(images, tokenizer)
    detector = from_transformers(model, processor, texts=["a dog", "red car"], conf=0.0, iou=1.0, device="cpu")
    found = detector(IMAGE)
    assert 0 < len(found.boxes) <= 16 and found.boxes[:, 2].max() <= 64
    shown = Image.fromarray(np.ascontiguousarray(IMAGE[..., ::-1]))
    inputs = processor(text=[["a dog", "red car"]], images=shown, return_tensors="pt")
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    named = next(name for name in dir(processor) if re.fullmatch(r"post_process_(grounded_)?object_detection", name))
    (said,) = getattr(processor, named)(outputs, threshold=0.0, target_sizes=[(48, 64)])
    expected = said["boxes"].numpy().clip(0, [64, 48, 64, 48])
    assert len(expected) == len(found.boxes)
    np.testing.assert_allclose(np.sort(found.boxes, 0), np.sort(expected, 0), atol=1e-3)
    np.testing.assert_allclose(np.sort(found.scores), np.sort(said["scores"].numpy()), rtol=1e-5)
    letters = "abcdefghijklmn"  # one token each; with the start and end tokens, the limit of 16
    assert len(from_transformers(model, processor, texts=[letters], conf=0.0, device="cpu")(IMAGE).boxes)
    with pytest.raises(
        ValueError, match=r"the text 'abcdefghijklmno' has 15 tokens, i.e. words and parts of words; .* up to 14"
    ):
        from_transformers(model, processor, texts=["a dog", f"{letters}o"], conf=0.0, device="cpu")(IMAGE)


def tiny_yolos(transformers: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = transformers.YolosConfig(
        **TINY,
        image_size=[64, 64],
        patch_size=16,
        num_detection_tokens=10,
        id2label={0: "cat", 1: "dog"},
        label2id={"cat": 0, "dog": 1},
    )
    processor = transformers.YolosImageProcessor(size={"height": 64, "width": 64})
    return transformers.YolosForObjectDetection(config), processor


def test_yolos_detects_its_own_classes(transformers: Any) -> None:
    model, processor = tiny_yolos(transformers)
    detector = from_transformers(model, processor, conf=0.01, device="cpu")
    found = detector(IMAGE)
    assert len(found.boxes) > 0 and found.names == {0: "cat", 1: "dog"} and set(found.class_ids.tolist()) <= {0, 1}
    assert len(from_transformers(model, processor, conf=0.99, device="cpu")(IMAGE).boxes) == 0
    assert re.fullmatch(r"yolos weights=\w{64} conf=0\.01", detector.fingerprint)
    assert from_transformers(model, processor, device="cpu").fingerprint.endswith(" conf=0.25")
    with pytest.raises(ValueError, match="iou has no effect"):
        from_transformers(model, processor, iou=0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["yolos", "grounding-dino"])
def test_models_in_half_precision(transformers: Any, tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    model, processor = tiny_yolos(transformers) if kind == "yolos" else tiny_dino(transformers, tmp_path)
    options: dict[str, Any] = {"conf": 0.0, "device": "cpu"} | (
        {} if kind == "yolos" else {"texts": ["a dog"], "iou": 1.0}
    )
    expected = from_transformers(model, processor, **options)(IMAGE)
    found = from_transformers(model.to(dtype), processor, **options)(IMAGE)
    assert found.boxes.dtype == found.scores.dtype == np.float32 and len(found.boxes) == len(expected.boxes) > 0
    np.testing.assert_allclose(np.sort(found.boxes, 0), np.sort(expected.boxes, 0), atol=1)
    np.testing.assert_allclose(np.sort(found.scores), np.sort(expected.scores), atol=0.02)


def test_clip_matcher_matches_model_logits(transformers: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_clip_tokenizer(transformers, tmp_path)
    model = transformers.CLIPModel(transformers.CLIPConfig(**tiny_clip_config(len(tokenizer))))
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = transformers.CLIPProcessor(images, tokenizer)
    matcher = ClipMatcher(model, processor, device="cpu")
    images = [bgr_image(20 + index, 30) for index in range(3)]
    fits = matcher(images, ["a dog", "b"])
    assert fits.shape == (2, 3) and np.abs(fits).max() <= 1 + 1e-5
    shown = [Image.fromarray(np.ascontiguousarray(image[..., ::-1])) for image in images]
    inputs = processor(text=["a dog", "b"], images=shown, return_tensors="pt", padding=True)
    with torch.no_grad():
        said = model(**inputs).logits_per_text / model.logit_scale.exp()
    np.testing.assert_allclose(fits, said.numpy(), atol=1e-4)
    # A crop of 1 or 3 rows is not taken for an image whose first axis holds the channels.
    for rows in (1, 3):
        crop = bgr_image(60, 150)[20 : 20 + rows]
        repeated = matcher([crop.repeat(2, 0).repeat(2, 1)], ["a dog", "b"])
        np.testing.assert_allclose(matcher([crop], ["a dog", "b"]), repeated, atol=0.05)
    with pytest.raises(ValueError, match="needs its processor"):
        ClipMatcher(model)
