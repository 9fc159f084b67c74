"""Tests the options of predictions: defaults, aliases and checks, and the choice of the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastsam_core.config import ALIASES, BOOLEAN_OPTIONS, FIELDS, STRING_OPTIONS, Config, DetectConfig, unknown_option
from fastsam_core.models import registry
from fastsam_core.models.mask_scoring import MaskScoring


def test_default_options() -> None:
    config = Config()
    assert (config.iou, config.imgsz, config.device, config.save) == (0.7, None, None, True)
    assert config.conf_for(registry.build("mobile_sam")) == 0.25
    assert config.generate_options(registry.build("mobile_sam"), (480, 640)) == {
        "points_stride": 32,
        "points_batch_size": 64,
        "conf_thres": 0.88,
        "stability_score_thresh": 0.95,
        "stability_score_offset": 1.0,
        "stability_share": 0.0,
        "highest_stability": 1.0,
        "box_nms_thresh": 0.7,
        "crop_n_layers": 0,
        "crop_nms_thresh": 0.7,
        "crop_overlap_ratio": 512 / 1500,
        "crop_downscale_factor": 1,
        "point_grids": None,
        "min_mask_region_area": 0,
    }


def test_defaults_of_a_call() -> None:
    """Those of segment everything are in `test_default_options`."""
    nothing = ["model", "device", "imgsz", "conf", "dtype", "text_model", "text_conf", "line_width", "project", "name"]
    off = ["stream_buffer", "save_frames", "save_txt", "save_conf", "save_crop", "show", "exist_ok"]
    on = ["verbose", "save", "show_labels", "show_conf", "show_boxes"]
    other = {"task": "segment", "mode": "predict", "iou": 0.7, "batch": 1, "points_stride": 32, "vid_stride": 1}
    expected = dict.fromkeys(nothing) | dict.fromkeys(off, False) | dict.fromkeys(on, True) | other
    assert {key: getattr(Config(), key) for key in expected} == expected
    changed = {"task": None, "conf": 0.25, "max_det": 300, "classes": None, "agnostic_nms": False}
    assert {key: getattr(DetectConfig(), key) for key in expected | changed} == expected | changed


@pytest.mark.parametrize(
    ("kind", "key", "accepted", "refused"),
    [
        (Config, "iou", (0, 1), (-0.01, 1.01)),
        (Config, "batch", (1,), (0,)),
        (Config, "text_conf", (0, 1), (-0.01, 1.01)),
        (Config, "points_stride", (1,), (0,)),
        (Config, "points_batch_size", (1,), (0,)),
        (Config, "stability_score_offset", (0, 9.5), (-0.01,)),
        (Config, "crop_n_layers", (0,), (-1,)),
        (Config, "crop_overlap_ratio", (0, 1), (-0.01, 1.01)),
        (Config, "crop_downscale_factor", (1, 1.5), (0.99,)),
        (Config, "crop_nms_thresh", (0, 1), (-0.01, 1.01)),
        (Config, "min_mask_region_area", (0, 0.5), (-0.01,)),
        (Config, "vid_stride", (1,), (0,)),
        (Config, "line_width", (1, 32767), (0,)),
        (DetectConfig, "conf", (0, 1), (-0.01, 1.01)),
        (DetectConfig, "iou", (0, 1), (-0.01, 1.01)),
        (DetectConfig, "batch", (1,), (0,)),
        (DetectConfig, "max_det", (1,), (0,)),
    ],
)
def test_bounds_of_numbers(
    kind: type[Config], key: str, accepted: tuple[float, ...], refused: tuple[float, ...]
) -> None:
    for value in accepted:
        assert getattr(kind(**{key: value}), key) == value
    for value in refused:
        with pytest.raises(ValueError, match=f"{key} must be"):
            kind(**{key: value})


def test_kinds_of_options_for_the_command_line() -> None:
    assert {"mode", "project", "name"} == STRING_OPTIONS
    switches = "verbose stream_buffer save save_frames save_txt save_conf save_crop show exist_ok"
    assert {*switches.split(), "show_labels", "show_conf", "show_boxes"} == BOOLEAN_OPTIONS


def test_thresholds_default_to_those_of_the_model() -> None:
    nano = registry.build("sam_nano")
    nano.mask_scoring = MaskScoring(
        conf=0.05, conf_thres=0.1, stability_score_thresh=0.2, stability_share=0.25, least_region=0.01
    )
    own = Config().generate_options(nano, (20, 30))
    assert (own["conf_thres"], own["stability_score_thresh"], own["stability_share"]) == (0.1, 0.2, 0.25)
    assert own["min_mask_region_area"] == pytest.approx(6)
    assert Config().generate_options(nano)["min_mask_region_area"] is None
    for area in (0, 9):
        assert Config().updated({"min_mask_region_area": area}).generate_options(nano)["min_mask_region_area"] == area
    assert Config().conf_for(nano) == 0.05 and Config().updated({"conf": 0.0}).conf_for(nano) == 0.0
    given = Config().updated({"conf_thres": 0.3}).generate_options(nano)
    assert (given["conf_thres"], given["stability_score_thresh"]) == (0.3, 0.2)


def test_points_batch_size_defaults_to_that_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.build("sam_nano")
    own = model.points_per_batch(torch.float16)
    assert Config().updated({"half": True}).generate_options(model)["points_batch_size"] == own
    asked: list[torch.dtype | None] = []
    monkeypatch.setattr(model, "points_per_batch", lambda dtype: asked.append(dtype) or 1024)
    assert Config().updated({"half": True}).generate_options(model)["points_batch_size"] == 1024
    assert Config().updated({"points_batch_size": 64}).generate_options(model)["points_batch_size"] == 64
    assert asked == [torch.float16]


def test_every_generate_option_is_an_argument_of_generate_masks() -> None:
    import inspect

    from fastsam_core.everything import generate_masks

    accepted = inspect.signature(generate_masks).parameters
    for key, value in Config().generate_options(registry.build("mobile_sam"), (480, 640)).items():
        assert accepted[key].default == value


@pytest.mark.parametrize(
    ("given", "key", "value"),
    [
        ({"half": True}, "dtype", torch.float16),
        ({"half": False}, "dtype", None),
        ({"quantize": 16}, "dtype", torch.float16),
        ({"quantize": 32}, "dtype", torch.float32),
        ({"quantize": None}, "dtype", None),
        ({"boxes": False}, "show_boxes", False),
        ({"hide_labels": True}, "show_labels", False),
        ({"hide_conf": True}, "show_conf", False),
        ({"line_thickness": 3}, "line_width", 3),
        ({"points_per_side": 8}, "points_stride", 8),
        ({"points_per_batch": 9}, "points_batch_size", 9),
        ({"pred_iou_thresh": 0.5}, "conf_thres", 0.5),
        ({"box_nms_thresh": 0.6}, "iou", 0.6),
        ({"crop_n_points_downscale_factor": 2}, "crop_downscale_factor", 2),
    ],
)
def test_aliases_set_the_option(given: dict, key: str, value: object) -> None:
    assert getattr(Config().updated(given), key) == value
    assert set(given) <= set(ALIASES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_by_name(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    for given in (dtype, name, str(dtype), name.upper(), name.replace("bfloat", "bf").replace("float", "fp")):
        assert Config().updated({"dtype": given}).dtype == dtype


def test_none_means_the_default() -> None:
    assert Config(points_stride=9).updated({"points_stride": None}).points_stride == 32
    assert Config().updated(dict.fromkeys(FIELDS)) == Config()


def test_updated_does_not_change_the_original() -> None:
    config, options = Config(), {"conf": 0.5}
    assert config.updated(options).conf == 0.5
    assert config.conf is None
    assert options == {"conf": 0.5}


@pytest.mark.parametrize("key", ["conf_thres", "stability_score_thresh"])
@pytest.mark.parametrize("value", [-1e30, -3, 0, 2.5, np.float32(-0.25), np.int64(7)])
def test_thresholds_take_any_finite_number(key: str, value: float) -> None:
    assert getattr(Config().updated({key: value}), key) == float(value)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"conf": 25}, ValueError, "conf must be a finite number of at most 1, not 25"),
        ({"conf": float("nan")}, ValueError, "conf must be a finite number"),
        ({"conf_thres": float("inf")}, ValueError, "conf_thres"),
        ({"conf": "0.5"}, TypeError, "conf must be a number"),
        ({"conf": True}, TypeError, "conf"),
        ({"iou": 1.5}, ValueError, "from 0 to 1"),
        ({"save": "yes"}, TypeError, "True or False"),
        ({"save": 2}, TypeError, "True or False"),
        ({"save": 1.0}, TypeError, "True or False"),
        ({"boxes": [1, 2, 3, 4]}, TypeError, "bboxes"),
        ({"points_stride": 0}, ValueError, "at least 1"),
        ({"points_stride": 2.0}, TypeError, "integer"),
        ({"quantize": 8}, ValueError, "16"),
        ({"quantize": True}, ValueError, "16"),
        ({"dtype": "float64"}, ValueError, "float32, float16 or bfloat16"),
        ({"dtype": torch.float64}, ValueError, "float32, float16 or bfloat16"),
        ({"dtype": 16}, ValueError, "float32, float16 or bfloat16"),
        ({"dtype": "bfloat16", "half": True}, TypeError, "twice"),
        ({"batch": 0}, ValueError, "at least 1"),
        ({"batch": 2.5}, TypeError, "integer"),
        ({"imgsz": (640, 480)}, ValueError, "square"),
        ({"imgsz": 0}, ValueError, "imgsz must be at least 16"),
        ({"imgsz": "1024"}, TypeError, "imgsz"),
        ({"device": 1.5}, TypeError, "device"),
        ({"project": 3}, TypeError, "project"),
        ({"project": b"runs"}, TypeError, "project must be text"),
        ({"pointstride": 4}, TypeError, "points_stride"),
        ({"bbox": [1, 2, 3, 4]}, TypeError, "bboxes"),
        ({"points_stride": 4, "points_per_side": 4}, TypeError, "twice, as points_stride and as points_per_side"),
        ({"half": True, "dtype": "float32"}, TypeError, "twice, as half and as dtype"),
        ({"points_stride": 2049}, ValueError, "points_stride must be at most 2048"),
        ({"imgsz": 10**9}, ValueError, "imgsz must be at most 16384"),
        ({"line_width": 10**6}, ValueError, "line_width must be at most 32767"),
        ({"stream": True}, TypeError, r"unknown option 'stream'; did you mean stream_buffer"),
    ],
)
def test_errors_name_the_option(options: dict, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        Config().updated(options)
    assert any(key in str(caught.value) for key in options)


@pytest.mark.parametrize("value", [0, 1, np.int64(1), np.True_, np.False_])
def test_switches_take_0_and_1(value: object) -> None:
    assert Config(save=value).save is bool(value)  # type: ignore[arg-type]


def test_assignment_is_checked() -> None:
    config = Config()
    config.conf = 0.5
    assert config.conf == 0.5
    with pytest.raises(ValueError, match="finite"):
        config.conf = float("nan")
    with pytest.raises(TypeError, match="did you mean conf"):
        config.cnf = 0.5  # type: ignore[attr-defined]
    assert config.conf == 0.5


def test_imgsz_is_rounded_up_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert Config().updated({"imgsz": (512, 512)}).imgsz == 512
    assert not caplog.records
    assert Config().updated({"imgsz": 1001}).imgsz == 1008
    assert "1008" in caplog.text


def test_options_without_effect_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    Config().updated({"agnostic_nms": True, "retina_masks": True, "rect": False})
    Config().updated({"agnostic_nms": True, "classes": np.array([0, 1])})
    assert Config().updated({"task": "detect"}).task == "segment"
    DetectConfig().updated({"points_stride": "few", "conf_thres": None, "classes": [0, 1]})
    assert [record.message for record in caplog.records] == [
        "agnostic_nms has no effect on Segment Anything",
        "classes has no effect on Segment Anything",
        "task='detect' has no effect; Segment Anything models only do 'segment'",
        "points_stride has no effect on YOLO and FastSAM",
    ]


def test_unknown_option_without_similar_names() -> None:
    assert unknown_option("zzzzzz") == "unknown option 'zzzzzz'"


def test_select_device() -> None:
    from fastsam_core.device import select_device

    assert select_device("cpu") == select_device(torch.device("cpu")) == torch.device("cpu")
    # If these differed, a model on "cpu:0" would be moved at each call.
    assert select_device("cpu:0") == torch.zeros(0, device="cpu:0").device
    there = torch.cuda.is_available()
    assert select_device("").type == select_device(None).type == ("cuda" if there else "cpu")
    assert select_device(None, current=torch.device("cuda:7")) == torch.device("cuda:7")
    for missing in ("cuda:99", 99, "99,3"):
        with pytest.raises(ValueError, match="CUDA devices"):
            select_device(missing)
    with pytest.raises(ValueError, match="not a device"):
        select_device("gpu")
    with pytest.raises(ValueError, match="not supported"):
        select_device("meta")
    with pytest.raises(TypeError):
        select_device(True)
