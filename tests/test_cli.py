"""Tests the command line `fastsam`: commands, spellings of options, output, and errors of one line."""

from __future__ import annotations

import importlib.metadata
import io
import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import fastsam_core
from fastsam_core import cli, sam
from fastsam_core.cli import main
from image_examples import write_video
from small_model import bgr_image, small_weights
from yolo_files import make, write

# Recipe weights predict IoUs around zero, so thresholds are low. A small input and a coarse grid keep tests quick.
QUICK = "model=nano.pt imgsz=128 conf=-99 conf_thres=-99 stability_score_thresh=-1 points_stride=2"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a checkpoint, an image, and a folder of images, one of them broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTSAM_DEBUG", raising=False)
    torch.save(small_weights(), "nano.pt")
    (tmp_path / "photos").mkdir()
    for name in ("img.png", "photos/1.png", "photos/2.png"):
        cv2.imwrite(name, bgr_image(48, 80))
    (tmp_path / "photos" / "3.png").write_bytes(b"broken")
    return tmp_path


def run(line: str) -> int:
    return main(shlex.split(line))


def error_of(captured: pytest.CaptureFixture[str]) -> str:
    """Return what a failed command wrote to stderr, which must be a single line."""
    text = captured.readouterr().err
    text = re.sub(r"^fastsam: warning: torch \S+ has a known flaw in reading \.pt files.*\n", "", text)  # before 2.10
    assert text.startswith("fastsam: error: ") and text.endswith("\n") and text.count("\n") == 1, text
    return text


def test_example_of_the_readme(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict model=nano.pt source=img.png points=[[40,20]] labels=[1] save=True conf=-99 imgsz=128") == 0
    said = capsys.readouterr().out
    assert "1 image, 1 mask" in said
    folder = place / "runs" / "segment" / "predict"
    assert str(folder) in said
    saved = cv2.imread(str(folder / "img.jpg"))
    assert saved is not None and saved.shape == (48, 80, 3)


@pytest.mark.parametrize(
    "line",
    [
        f"predict {QUICK} source=img.png bboxes=[[4,6,40,30],[20,10,60,40]]",
        f"segment predict {QUICK} source=img.png bboxes=[[4,6,40,30],[20,10,60,40]] line_thickness=2 --hide-labels",
        f"{QUICK} source=img.png bboxes=[[4, 6, 40, 30], [20, 10, 60, 40]] segment predict",
        f"predict {QUICK} --source img.png --bboxes '[[4,6,40,30],[20,10,60,40]]' --save False --verbose False",
        f"predict {QUICK} source = img.png --points=[[4,6],[40,30]] --labels=1 save=False",
        f"{QUICK} mode=predict task=segment source=img.png points=[[4,6],[40,30]]",
    ],
)
def test_spellings_of_predict(place: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert run(line) == 0
    assert "1 image, 2 masks" in capsys.readouterr().out
    assert (place / "runs").exists() == ("save False" not in line and "save=False" not in line)


def test_multimask_output_gives_three_masks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"predict {QUICK} source=img.png points=[40,20] --multimask-output save=False") == 0
    assert "1 image, 3 masks" in capsys.readouterr().out


def test_masks_are_read_from_files(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((48, 80), np.uint8)
    mask[10:30, 20:50] = 255
    np.save("masks.npy", np.stack([mask > 0] * 2))
    cv2.imwrite("mask.png", mask)
    for name, found in (("masks.npy", "2 masks"), ("mask.png", "1 mask,")):
        assert run(f"predict {QUICK} source=img.png masks={name} save=False") == 0
        assert found in capsys.readouterr().out
    np.save("pickled.npy", np.array([{}]), allow_pickle=True)
    (place / "broken.npy").write_bytes(b"broken")
    for name, said in (
        ("pickled.npy", "pickled.npy is not an .npy file of numbers: Object arrays cannot be loaded"),
        ("broken.npy", "broken.npy is not an .npy file of numbers: "),
        ("img.png", "img.png is in colour"),
        ("missing.npy", "missing.npy"),
    ):
        assert run(f"predict {QUICK} source=img.png masks={name}") == 1
        assert said in error_of(capsys)


def test_folder_with_a_broken_image_is_processed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"predict {QUICK} source=photos save_txt name=first") == 0
    said = capsys.readouterr()
    assert "2 images" in said.out and "image 2/3" in said.out
    assert "fastsam: warning: " in said.err and "3.png" in said.err
    folder = place / "runs" / "segment" / "first"
    assert sorted(path.name for path in folder.iterdir()) == ["1.jpg", "2.jpg", "labels"]


def test_summary_counts_label_files(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"predict {QUICK} source=img.png save_txt") == 0
    assert ", 1 label file in" in capsys.readouterr().out


def test_video_is_predicted_and_saved(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(place / "clip.avi", [bgr_image(48, 80)] * 3)
    assert run(f"predict {QUICK} source=clip.avi bboxes=[4,6,40,30] vid_stride=2") == 0
    assert "2 images, 2 masks" in capsys.readouterr().out
    assert (place / "runs" / "segment" / "predict" / "clip.avi").stat().st_size > 0


def test_predict_streams_results(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are consumed one by one; a list would hold all of them in memory."""
    streamed = []
    plain = sam.SAM.__call__

    def spy(self, source=None, stream=False, **kwargs):  # type: ignore[no-untyped-def]
        streamed.append(stream)
        return plain(self, source, stream=stream, **kwargs)

    monkeypatch.setattr(sam.SAM, "__call__", spy)
    assert run(f"predict {QUICK} source=img.png bboxes=[4,6,40,30] save=False") == 0
    assert streamed == [True]


def test_annotate_writes_label_files(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "photos" / "2.png").unlink()
    assert run("annotate data=photos model=nano.pt output_dir=labels") == 0
    said = capsys.readouterr()
    assert "1 label file in labels" in said.out and "1 skipped" in said.out and "Labels saved to labels" in said.out
    assert [path.name for path in (place / "labels").glob("*.txt")] == ["1.txt"]


def test_info_describes_the_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("info model=nano.pt", "info"):
        assert run(line) == 0
        said = capsys.readouterr().out
        assert "parameters" in said and "image_encoder" not in said


def test_doctor_reports_versions_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor") == 0
    said = capsys.readouterr().out
    assert fastsam_core.__version__ in said and torch.__version__.split("+")[0] in said and "threads" in said


@pytest.mark.parametrize("line", ["version", "--version", "-V"])
def test_version_is_printed(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert run(line) == 0
    assert capsys.readouterr().out.strip() == fastsam_core.__version__


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predit source=img.png", "did you mean predict?"),
        ("predict sourc=img.png", "did you mean source?"),
        ("predict points_strid=3", "points_stride"),
        ("predict img.png", "did you mean source=img.png?"),
        ("predict nano.pt", "did you mean model=nano.pt?"),
        ("predict conf", "did you mean conf=...?"),
        ("predict sav_txt source=img.png", "did you mean save_txt?"),
        ("predict points=[[1,2]", "never closed"),
        ("predict points=[[1,x]]", "cannot read the list"),
        ("predict conf=1 --conf 2", "twice"),
        ("train data=coco.yaml", "not supported"),
        ("predict info", "one command at a time"),
        ("annotate", "needs data="),
        ("annotate data=photos output=x", "output_dir"),
        ("annotate data=photos source=img.png", "data is given twice, as source and as data"),
        ("annotate data=photos model=nano.pt sam_model=nano.pt", "sam_model is given twice, as model and as sam_model"),
        ("info source=img.png", "source"),
        ("doctor model=x", "no options"),
    ],
)
def test_malformed_commands_exit_with_2(place: Path, capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    assert run(line) == 2
    assert said in error_of(capsys)
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("predict model= source=img.png", "model"),
        ("info model=", "model"),
        ("predict source=", "source"),
        ("annotate data=photos model=nano.pt output_dir=", "output_dir"),
        ("tiles source=img.png work_dir=", "work_dir"),
        ("val data= model=nano.pt", "data"),
        ("val data=photos output=''", "output"),
        ("convert --data '' from=yolo to=sa1b output=out", "data"),
        ("convert data=photos from=yolo to=sa1b output=", "output"),
    ],
)
def test_empty_names_are_refused(place: Path, capsys: pytest.CaptureFixture[str], line: str, key: str) -> None:
    """An empty value, for example of an unset shell variable, is an error; no default is used instead."""
    before = sorted(place.rglob("*"))
    assert run(line) == 2
    assert f"{key} is empty" in error_of(capsys)
    assert sorted(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict model=nano.pt source=missing.png", "missing.png"),
        ("predict model=missing.pt source=img.png", "missing.pt"),
        ("predict model=img.png source=img.png", "img.png"),
        ("predict model=nano.pt source=img.png conf=high", "conf"),
        ("predict model=nano.pt source=img.png iou=2", "iou"),
        ("predict model=nano.pt source=img.png bboxes=[1,2,3]", "bboxes"),
        ("predict model=nano.pt source=photos/3.png", "3.png"),
        ("predict model=nano.pt source=img.png device=cuda:99", "cuda:99"),
        ("annotate data=missing model=nano.pt", "missing"),
        ("info model=nano.pt detailed=maybe", "detailed must be True or False, not 'maybe'"),
    ],
)
def test_failed_runs_exit_with_1(place: Path, capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    assert run(line) == 1
    assert said in error_of(capsys)


def test_folder_of_broken_images_only_is_an_error(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bad").mkdir()
    for name in ("a.png", "b.png"):
        (place / "bad" / name).write_bytes(b"broken")
    assert run(f"predict {QUICK} source=bad save=False") == 1
    assert "fastsam: error: no image of bad could be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped"),
        (MemoryError("no room"), 1, "no room"),
        (ConnectionError("no way\nthere"), 1, "no way there"),
        (MemoryError(), 1, "MemoryError"),
        (ImportError("pip install it"), 1, "fastsam: error: pip install it"),
        (RuntimeError("odd"), 1, "RuntimeError: odd (FASTSAM_DEBUG=1 shows where)"),
    ],
)
def test_exceptions_become_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    def fail(values: object) -> None:
        raise error

    monkeypatch.setitem(cli._COMMANDS, "doctor", fail)
    assert main(["doctor"]) == status
    assert said in error_of(capsys)


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FASTSAM_DEBUG", "1")
    assert run("predict model=missing.pt source=img.png") == 1
    assert "Traceback" in capsys.readouterr().err


def test_default_model_is_the_bundled_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def record(name: str) -> None:
        asked.append(name)
        raise ValueError("enough")

    monkeypatch.setattr(sam, "SAM", record)
    assert run("predict source=img.png") == 1
    assert asked == ["sam_nano.pt"]


def test_logger_is_restored() -> None:
    logger = logging.getLogger("fastsam_core")
    before = (list(logger.handlers), logger.level, logger.propagate)
    main(["version"])
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_installed_command_calls_main() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="fastsam")
    assert entry.load() is main


def test_python_m_fastsam_core(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(fastsam_core.__file__).parents[1])}
    command = [sys.executable, "-m", "fastsam_core"]
    good = subprocess.run([*command, "version"], capture_output=True, text=True, env=environment)
    assert (good.returncode, good.stdout.strip()) == (0, fastsam_core.__version__)
    bad = subprocess.run([*command, "predict", "sourc=x"], capture_output=True, text=True, env=environment)
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and not bad.stdout


def test_help_and_usage_errors_do_not_import_torch() -> None:
    lines = ["help", "version", "predict sourc=x", "annotate bogus=1", "tiles bogus=1", "val bogus=1"]
    code = (
        f"import sys; from fastsam_core.cli import main; [main(line.split()) for line in {lines}]; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fastsam_core.cli" in loaded and "torch" not in loaded and "numpy" not in loaded


def test_saved_image_shows_the_masks(place: Path) -> None:
    assert run(f"predict {QUICK} source=img.png bboxes=[4,6,60,40]") == 0
    drawn = cv2.imread(str(place / "runs" / "segment" / "predict" / "img.jpg")).astype(int)
    assert np.abs(drawn - bgr_image(48, 80)).mean() > 3


def test_yolo_and_fastsam_commands(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(place / "yolov8n.pt", make("detect"))
    write(place / "FastSAM-s.pt", make("segment", nc=1))
    write(place / "best.pt", make("detect"))
    assert run("predict model=yolov8n.pt source=img.png conf=0.3") == 0
    said = capsys.readouterr().out
    assert "objects" in said and str(place / "runs" / "detect" / "predict") in said
    assert run("detect predict model=best.pt source=img.png conf=0.3 save=False classes=[1,2]") == 0
    assert "objects" in capsys.readouterr().out
    assert run("predict model=FastSAM-s.pt source=img.png conf=0.3 points=[40,20] save=False") == 0
    assert "mask" in capsys.readouterr().out
    assert run("info model=yolov8n.pt") == 0
    assert "GFLOPs" in capsys.readouterr().out
    for line, message in (
        ("predict model=yolov8n.pt source=img.png bboxes=[1,2,3,4]", "YOLO takes no bboxes"),
        ("predict model=FastSAM-s.pt source=img.png masks=[1]", "FastSAM takes no masks"),
    ):
        assert run(line) == 2
        assert message in error_of(capsys)
    assert run("predict model=best.pt source=img.png") == 1
    assert "not a Segment Anything model" in (said := error_of(capsys)) and "fastsam detect predict" in said


def test_convert_checkpoints(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(place / "yolov8n.pt", make("detect"))
    assert run("convert yolov8n.pt yolov8n.safetensors") == 0
    assert "yolov8n.safetensors: YOLOv8, detect, 5 classes, " in capsys.readouterr().out
    assert run("convert nano.pt nano.safetensors") == 0
    assert "nano.safetensors: sam_nano, " in capsys.readouterr().out
    assert run("predict model=yolov8n.safetensors source=img.png save=False conf=0.3") == 0
    capsys.readouterr()
    for line in ("convert yolov8n.pt", "convert a.pt b.safetensors c.pt", "convert a.pt b.pt device=cpu"):
        assert run(line) == 2
        assert "convert takes a checkpoint" in error_of(capsys)
    assert run("convert yolov8n.pt out.pt") == 1
    assert "to .safetensors" in error_of(capsys)
    assert run("predict yolov8n.pt") == 2
    assert "did you mean model=yolov8n.pt?" in error_of(capsys)


def test_unsupported_modes_and_values_of_switches(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"mode=train {QUICK} source=img.png") == 2
    assert "'train' is not supported" in error_of(capsys)
    assert run(f"mode=nothing {QUICK} source=img.png") == 2
    assert "nothing" in error_of(capsys)
    assert not (place / "runs").exists()
    assert run(f"predict {QUICK} source=img.png multimask_output=maybe") == 1
    assert "multimask_output must be True or False, not 'maybe'" in error_of(capsys)
    assert run("info model=nano.pt detailed") == 0
    assert "image_encoder" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize(("name", "encoding"), [("b\udcffd.png", "utf-8"), ("\u65e5\u672c.png", "ascii")])
def test_file_names_that_the_terminal_cannot_encode(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str, errors: str
) -> None:
    try:
        os.rename("img.png", name)
    except OSError:
        pytest.skip("this file system takes no such names")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding, errors, write_through=True))
    assert run(f"predict {QUICK} source={name} points=[40,20] name=found") == 0
    assert b"1 image, 1 mask" in written.getvalue()
    assert len(list((place / "runs" / "segment" / "found").iterdir())) == 1


def test_wrong_environment_variable_is_one_line() -> None:
    # Modules that read the variable must be imported within the command, whose errors are caught.
    code = "import sys; from fastsam_core.cli import main; sys.exit(main(['doctor']))"
    for name in ("FASTSAM_CUDA_KERNELS", "FASTSAM_DEBUG"):
        environment = {**os.environ, name: "true"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (1, f"fastsam: error: {name}=true: it must be 1 or 0\n")
