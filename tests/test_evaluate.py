"""Tests of whole evaluations: scores against independent code, files and the command line."""

from __future__ import annotations

import io
import json
import logging
import os
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from fastsam_core import SAM, FastSAM, Predictor
from fastsam_core.cli import main
from fastsam_core.evaluate import Evaluation, Measure, evaluate
from fastsam_core.evaluate.cases import Cases, draw_case
from fastsam_core.evaluate.clicks import innermost_pixel
from fastsam_core.evaluate.datasets import Example, GroundTruthObject
from fastsam_core.evaluate.image_scores import ImageScores
from fastsam_core.evaluate.prompted import PromptedSegmenter
from fastsam_core.evaluate.report import _MEASURE_FIELDS
from fastsam_core.evaluate.settings import MEASURES, EvaluateConfig
from fastsam_core.formats import CocoWriter, ImageLabels, LabelledObject, Segmentation
from fastsam_core.models.fingerprint import weights_hash
from fastsam_core.train.scenes import TexturePool, make_scene
from label_examples import encoded
from small_model import small_model
from test_evaluate_measures import coco_recall

SIDE = 128
QUICK = {"points_stride": 4, "imgsz": 192}


# --- whole runs, with the bundled model on generated scenes ---


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes as a data set in all three forms: `coco.json`, `png` and `npz`."""
    place = tmp_path_factory.mktemp("scenes")
    pool = TexturePool(size=128, count=24, seed=3)
    for kind in ("png/images", "png/masks", "npz/images", "npz/labels"):
        (place / kind).mkdir(parents=True)
    with CocoWriter(place / "coco.json") as writer:
        for index in range(2):
            scene = make_scene(np.random.default_rng([31, index]), SIDE, pool, objects=(5, 8))
            for form in ("png", "npz"):
                cv2.imwrite(str(place / form / "images" / f"{index}.png"), scene.image[..., ::-1])
            Image.fromarray(scene.labels.astype(np.uint8)).save(place / "png" / "masks" / f"{index}.png")
            numbers = range(1, scene.labels.max() + 1)
            segments = json.dumps([{"label": number} for number in numbers])
            np.savez(place / "npz" / "labels" / f"{index}.npz", labels=scene.labels, segments=np.array(segments))
            objects = [LabelledObject(0, Segmentation.from_rle(encoded(scene.labels == number))) for number in numbers]
            writer.write(ImageLabels(f"{index}.png", SIDE, SIDE, objects))
    return place


@pytest.fixture(scope="module")
def sam() -> SAM:
    return SAM("sam_nano.pt")


@pytest.fixture(scope="module")
def whole(sam: SAM, scenes: Path) -> Evaluation:
    return sam.val(scenes / "png", **QUICK, output=scenes / "out", rows=True, verbose=False)


def truths(scenes: Path, index: int) -> list[np.ndarray]:
    labels = np.asarray(Image.open(scenes / "png" / "masks" / f"{index}.png"))
    found = [labels == number for number in range(1, labels.max() + 1)]
    return [one for one in found if one.sum() >= 0.005 * SIDE * SIDE]


def decoded(results: Any) -> np.ndarray:
    """Return a result's masks (N, H, W), decoded by pycocotools."""
    return np.asarray(coco.decode(results.masks.rle)).transpose(2, 0, 1).astype(bool)


def ious(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (masks & truth).sum((1, 2)) / (masks | truth).sum((1, 2))


def test_scores_equal_those_of_plain_predictor_calls(sam: SAM, scenes: Path, whole: Evaluation) -> None:
    predictor = Predictor(overrides={"model": sam.model, "imgsz": 192, "save": False, "verbose": False, "conf": -1e9})
    chosen, best, box, pairs, images = [], [], [], [], []
    for index in range(2):
        predictor.set_image(scenes / "png" / "images" / f"{index}.png")
        found = truths(scenes, index)
        for truth in found:
            (three,) = predictor(points=[list(innermost_pixel(truth)[0] or ())], multimask_output=True)
            scores, of_each = three.predicted_iou.numpy(), ious(decoded(three), truth)
            chosen.append(of_each[scores.argmax()])
            best.append(of_each.max())
            pairs.append((scores.max(), chosen[-1]))
            y, x = np.argwhere(truth).T
            (single,) = predictor(bboxes=[[x.min(), y.min(), x.max(), y.max()]])
            box.append(ious(decoded(single), truth)[0])
        images.append((decoded(predictor.proposals(n=1000, points_stride=4)), np.array(found)))
    assert whole.images == 2 and whole.objects == len(chosen) >= 6 and not whole.failures and not whole.crowds
    assert whole.click_iou is not None and whole.click_iou.value == pytest.approx(np.mean(chosen), abs=1e-9)
    assert whole.oracle_iou is not None and whole.oracle_iou.value == pytest.approx(np.mean(best), abs=1e-9)
    assert whole.box_iou is not None and whole.box_iou.value == pytest.approx(np.mean(box), abs=1e-9)
    assert whole.ar1000 is not None and whole.ar1000.value == pytest.approx(coco_recall(images, 1000), abs=1e-9)
    assert whole.ar100 is not None and whole.ar100.value == pytest.approx(coco_recall(images, 100), abs=1e-9)
    ranks = [np.argsort(np.argsort(values)) for values in np.array(pairs).T]
    expected = np.corrcoef(*ranks)[0, 1]
    assert whole.iou_correlation is not None and whole.iou_correlation.value == pytest.approx(expected, abs=1e-9)


def test_bundled_model_beats_the_disc_baseline_on_scenes(sam: SAM, scenes: Path) -> None:
    own_size = sam.val(data=scenes / "png", measures=["click"], verbose=False)
    assert own_size.click_iou is not None and own_size.disc_iou is not None
    assert own_size.click_iou.value > own_size.disc_iou.value + 0.1


def test_every_measure_has_its_interval_and_row(sam: SAM, scenes: Path, whole: Evaluation) -> None:
    assert set(whole.measures) == set(_MEASURE_FIELDS)
    for name, measure in whole.measures.items():
        assert measure.objects == whole.objects and measure.low is not None and measure.high is not None
        assert measure.low <= measure.value <= measure.high or name == "iou_correlation"
    written = json.loads((scenes / "out" / "val.json").read_text())
    facts = written["settings"]
    assert written == whole.to_dict() and facts["weights"] == f"sha256:{weights_hash(sam.model)}"
    assert facts["everything"]["points_stride"] == 4 and facts["measures"] == list(MEASURES) and facts["imgsz"] == 192
    rows = [json.loads(line) for line in (scenes / "out" / "val.jsonl").read_text().splitlines()]
    assert len(rows) == whole.objects
    for name, measure in whole.measures.items():
        if name != "iou_correlation":
            assert np.mean([row[name] for row in rows]) == pytest.approx(measure.value, abs=1e-12)
    for row in rows:
        assert row["click_iou"] == row["true_ious"][int(np.argmax(row["predicted_ious"]))] == row["ious_by_click"][0]
        for goal in (85, 90):
            reached = [number for number, iou in enumerate(row["ious_by_click"], 1) if iou >= goal / 100]
            assert row[f"noc{goal}"] == min([*reached, 20]) and row[f"noc{goal}_reached"] == bool(reached)
        assert len(row["ious_by_click"]) == row["noc90"]
    sheet = cv2.imread(str(scenes / "out" / "val.jpg"))
    assert sheet is not None and sheet.shape[0] == 3 * (256 + 22 + 6) + 6 and not list((scenes / "out").glob(".*"))


def test_png_npz_and_coco_data_give_the_same_numbers(
    scenes: Path, whole: Evaluation, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the command line, so this also shows that separate runs give the same numbers."""
    monkeypatch.chdir(scenes)
    measures = "measures=[click,boundary,everything,correlation] --baselines False"
    line = f"val model=sam_nano.pt points_stride=4 imgsz=192 {measures}"
    for form, number in (("data=coco.json images=png/images", ""), ("data=npz", "-2"), ("--data png --rows", "-3")):
        assert main(shlex.split(f"{line} {form}")) == 0
        output = capsys.readouterr().out
        folder = scenes / "runs" / "segment" / f"val{number}"
        assert f"Results saved to {folder}" in output and f"{whole.objects} objects of at least 0.5 %" in output
        assert (folder / "val.jpg").is_file() and (folder / "val.jsonl").is_file() == ("rows" in form)
        measured = json.loads((folder / "val.json").read_text())["measures"]
        assert measured.keys() == {
            "click_iou", "oracle_iou", "boundary_f", "iou_correlation", "ar100", "ar1000"
        }  # fmt: skip
        for name, values in measured.items():
            assert Measure(**values) == getattr(whole, name)
        assert f"{whole.measures['boundary_f'].value:.3f}" in output and "GrabCut" not in output


def test_number_of_clicks_measures(sam: SAM, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_click = [[0.5, 0.85, 0.9], [0.95], [0.86, 0.1, 0.89] + [0.2] * 17, [0.84, 0.8]]
    asked: list[dict[str, Any]] = []

    def simulate_corrections(
        self: PromptedSegmenter, objects: list[Any], first_results: list[Any], target_iou: float, **options: Any
    ) -> Any:
        asked.append({"goal": target_iou, **options})
        return by_click[: len(objects)]

    monkeypatch.setattr(PromptedSegmenter, "simulate_corrections", simulate_corrections)
    # The four largest objects of the first scene.
    areas = sorted((int(truth.sum()) for truth in truths(scenes, 0)), reverse=True)
    assert len(areas) >= 4
    options: dict[str, Any] = {"measures": "noc", "imgsz": 64, "verbose": False, "mask_feedback": False}
    with monkeypatch.context() as patch:
        patch.setattr("fastsam_core.evaluate.run.MaskDataset.__len__", lambda self: 1)
        found = sam.val(scenes / "png", min_area=areas[3] / SIDE**2, baselines=False, **options)
    assert found.objects == 4 and asked == [{"goal": 0.9, "mask_feedback": False}]
    assert found.noc85 is not None and found.noc85.value == (2 + 1 + 1 + 20) / 4
    assert found.noc90 is not None and found.noc90.value == (3 + 1 + 20 + 20) / 4
    assert found.noc85_reached is not None and found.noc85_reached.value == 3 / 4
    assert found.noc90_reached is not None and found.noc90_reached.value == 2 / 4
    assert "NoC@90" in str(found) and "50.0 %" in str(found)


def test_measures_and_images_can_be_limited(sam: SAM, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "val.jpg").write_text("of an earlier run")
    (tmp_path / "val.jsonl").write_text("of an earlier run")
    one = sam.val(scenes / "png", measures="box", max_images=1, imgsz=128, output=tmp_path, verbose=False)
    assert one.images == 1 and set(one.measures) == {"box_iou", "grabcut_iou"} and one.settings["imgsz"] == 128
    assert one.box_iou is not None and one.box_iou.low is None and "95 %" in str(one)
    assert cv2.imread(str(tmp_path / "val.jpg")) is not None and not (tmp_path / "val.jsonl").exists()
    recall = sam.val(scenes / "png", measures=["everything"], points_stride=4, output=tmp_path, verbose=False)
    assert set(recall.measures) == {"ar100", "ar1000"} and not (tmp_path / "val.jpg").exists()
    large = sam.val(scenes / "png", measures="click", min_area=0.05, baselines=False, verbose=False)
    assert large.output is None and large.small > 0
    counts = [sum(truth.sum() >= 0.05 * SIDE * SIDE for truth in truths(scenes, index)) for index in range(2)]
    assert large.objects == sum(counts)


def test_each_image_is_encoded_once(scenes: Path) -> None:
    model = small_model()
    # Only large objects: this model's masks are noise, so each object is clicked twenty times.
    options: dict[str, Any] = {"imgsz": 128, "points_stride": 2, "min_area": 0.05, "measures": MEASURES}
    evaluate(SAM(model)._prepare_predictor(), scenes / "png", **options, verbose=False)
    assert model.counts == {"encoded": 2}  # type: ignore[comparison-overlap]


def test_unusable_images_and_objects_are_reported(
    sam: SAM, scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for index, name in enumerate("ab"):
        (tmp_path / "images" / f"{name}.png").write_bytes((scenes / "npz" / "images" / f"{index}.png").read_bytes())
    whole = np.load(scenes / "npz" / "labels" / "0.npz")["labels"]
    segments = json.dumps([{"label": 1}, {"label": 99}, {"label": 2, "iscrowd": 1}])
    np.savez(tmp_path / "labels" / "a.npz", labels=whole, segments=np.array(segments))
    np.savez(tmp_path / "labels" / "b.npz", labels=whole[1:], segments=np.array(segments))
    np.savez(tmp_path / "labels" / "c.npz", labels=whole, segments=np.array(segments))
    with caplog.at_level(logging.WARNING, "fastsam_core"):
        found = sam.val(tmp_path, measures="click", min_area=0, imgsz=128, output=tmp_path / "out", verbose=False)
    assert found.images == 1 and found.objects == 1 and found.crowds == 1
    reasons = {(failure.image, failure.object): failure.reason for failure in found.failures}
    assert reasons.keys() == {("c.npz", None), ("a.png", "99"), ("b.png", None)}
    for (image, _), reason in reasons.items():
        assert any(
            record.getMessage().startswith(f"skipped {image}") and reason in record.getMessage()
            for record in caplog.records
        )
    assert "could not be used: 2 images or files, 1 object" in str(found) and "1 crowd" in str(found)
    assert len(json.loads((tmp_path / "out" / "val.json").read_text())["failures"]) == 3
    with pytest.raises(ValueError, match=r"no object to evaluate: 1 of 2 images .*first problem: c.npz"):
        sam.val(tmp_path, min_area=0.999, verbose=False)


def test_failed_run_leaves_no_folder(
    scenes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(f"val data={scenes / 'png'} min_area=0.999 rows measures=click imgsz=64")) == 1
    assert "no object to evaluate" in capsys.readouterr().err and not any((tmp_path / "runs" / "segment").iterdir())


def test_tilde_in_options_is_expanded(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells don't expand a ~ within a word."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(scenes))
    assert main(shlex.split("val data=~/png output=~/said measures=box max_images=1 imgsz=64 baselines=False")) == 0
    assert (scenes / "said" / "val.json").is_file() and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("val", 2, "needs data="),
        ("val data=png dat=3", 2, "did you mean data?"),
        ("val data=png source=x", 2, "accepted: data, images"),
        ("val data=png model=yolov8n.pt", 2, "is YOLO"),
        ("val data=~no_such_user/set", 1, "no such file or folder: ~no_such_user/set"),
        ("val data=missing", 1, "no such file or folder: missing"),
        ("val data=coco.json", 1, "give images="),
        ("val data=png measures=[click,speed]", 1, "'speed'; accepted: click, box"),
        ("val data=png min_area=1", 1, "from 0 to below 1"),
        ("val data=png max_images=0", 1, "max_images must be at least 1"),
        ("val data=png seed=x", 1, "seed must be an integer"),
        ("val data=png model=missing.pt", 1, "missing.pt"),
        ("val data=png imgsz=big", 1, "imgsz"),
    ],
)
def test_mistakes_in_the_command_are_reported_and_write_nothing(
    scenes: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(scenes)
    monkeypatch.delenv("FASTSAM_DEBUG", raising=False)
    before = sorted(scenes.rglob("*"))
    assert main(shlex.split(line)) == status
    assert message in capsys.readouterr().err and [path for path in sorted(scenes.rglob("*")) if path.is_file()] == [
        path for path in before if path.is_file()
    ]


def test_settings_are_checked_and_ordered() -> None:
    assert EvaluateConfig().measures == MEASURES
    assert EvaluateConfig(measures="noc, click").measures == ("click", "noc")
    for wrong in ({"measures": 3}, {"baselines": "maybe"}, {"min_area": "x"}, {"max_images": 1.5}, {"unknown": 1}):
        with pytest.raises(TypeError):
            EvaluateConfig(**wrong)
    for wrong in ({"measures": []}, {"measures": ["iou"]}, {"min_area": -0.1}, {"seed": -1}, {"points_stride": 0}):
        with pytest.raises(ValueError):
            EvaluateConfig(**wrong)


def test_fastsam_models_cannot_be_evaluated() -> None:
    with pytest.raises(NotImplementedError, match="FastSAM predicts only"):
        FastSAM.val(object.__new__(FastSAM), data="x")


def test_drawn_case_shows_errors_in_colour() -> None:
    image = np.full((400, 600, 3), 100, np.uint8)
    truth, predicted = np.zeros((400, 600), bool), np.zeros((400, 600), bool)
    truth[100:200, 100:300] = True
    predicted[100:200, 200:400] = True
    drawn = draw_case(image, encoded(truth), encoded(predicted), (150, 150))
    # The masks' box is 300 x 100 pixels; a quarter of that is added on each side.
    assert drawn.shape == (85, 256, 3)
    scale = 256 / 450

    def at(x: int, y: int) -> list[int]:
        return [int(value) for value in drawn[int((y - 75 + 0.5) * scale), int((x - 25 + 0.5) * scale)]]

    assert at(40, 90) == [100, 100, 100] and at(350, 150) == [178, 122, 65] and at(170, 170) == [100, 100, 100]
    assert at(150, 150)[2] > 200 > at(150, 150)[0] and at(150, 100)[1] > 180
    # An empty mask is not drawn.
    assert draw_case(image, encoded(truth), encoded(truth & False), None).shape == (128, 256, 3)


def test_best_median_and_worst_cases_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[int]] = {}

    def tile(self: Cases, kind: str, index: int) -> np.ndarray:
        drawn.setdefault(kind, []).append(index)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(Cases, "_tile", tile)
    cases, mask = Cases(io.StringIO()), encoded(np.ones((4, 4), bool))
    assert cases.draw_sheet() is None
    for ious, best, median, worst in (
        ([0.6], [0], [0], [0]),
        ([0.1, 0.9, 0.5, 0.7, 0.3, 0.8], [2, 6], [4, 0], [5, 1]),
    ):
        objects, scores = (
            [GroundTruthObject("", mask)] * len(ious),
            ImageScores({}, [None] * len(ious), [mask] * len(ious)),
        )
        cases.add(Example("a", Path("a.png")), objects, np.array(ious), scores)
        drawn.clear()
        assert cases.draw_sheet() is not None
        assert drawn == {"best": best, "median": median, "worst": worst}


@pytest.mark.parametrize("change", ["removed", "resized"])
def test_scores_survive_images_that_change_during_the_run(
    sam: SAM,
    scenes: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(path: str) -> np.ndarray:
        if change == "removed":
            raise FileNotFoundError(f"{path} does not exist")
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr("fastsam_core.evaluate.cases.read_image", read)
    found = sam.val(scenes / "png", measures=["box"], baselines=False, output=tmp_path / "out", verbose=False)
    assert "shown without its image" in caplog.text
    assert found.objects and json.loads((tmp_path / "out" / "val.json").read_text()) == found.to_dict()
    assert (tmp_path / "out" / "val.jpg").is_file()


def test_wrong_options_and_outputs_are_refused_before_predicting(
    sam: SAM, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TypeError, match="unknown option 'measure' of val; accepted: measures, split, min_area"):
        sam.val(scenes / "png", measure=["click"])
    with pytest.raises(ValueError, match=r"output=.*file' is not a folder"):
        sam.val(scenes / "png", output=tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(Predictor, "_ready_model", None)
    with pytest.raises(PermissionError):
        sam.val(scenes / "png", output=tmp_path / "new")
