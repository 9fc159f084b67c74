"""README and docs: links lead somewhere, Python examples run, and so do the README's commands.

Checkpoints that would be downloaded are small networks, and the text detector is a stand-in. The bundled model is real.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import fastsam_core
from fastsam_core import cli
from fastsam_core.detect.open_vocabulary import OpenVocabularyDetector
from fastsam_core.detect.protocol import Detections
from fastsam_core.models import checkpoint, registry
from fastsam_core.models.image_encoder import ImageEncoderViT, sam_vit
from golden_recipe import fill_state_dict
from image_examples import write_video
from small_model import bgr_image
from yolo_files import make, write

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
EXAMPLES = [
    pytest.param(block, id=f"{page.name}-{index}")
    for page in PAGES
    for index, block in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE))
    if "import the_tool" not in block  # which stands for any program
]
# Without parameters, the tests would only be skipped.
assert len(PAGES) > 10 and len(EXAMPLES) > 5


def slugs(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in slugs(linked)):
            broken.append(target)
    assert broken == []


def small_encoder() -> ImageEncoderViT:
    return sam_vit(16, 2, 2, (1,), out_chans=16)


SMALL = {
    name: dataclasses.replace(
        registry.MODELS["sam_b"], name=name, encoder=small_encoder, embed_dim=16, decoder_mlp_dim=32
    )
    for name in ("sam_b", "mobile_sam")
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the examples name, and the official checkpoints in `home`."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "home").mkdir()
    for name, entry in SMALL.items():
        state = fill_state_dict(checkpoint._build_uninitialised(entry).state_dict())
        state["mask_decoder.iou_prediction_head.layers.2.bias"] += 0.7  # so that masks pass the filter of a prompt
        torch.save(state, folder / "home" / f"{name}.pt")
    shutil.copy(folder / "home" / "sam_b.pt", folder / "home" / "sam_vit_b_01ec64.pth")
    write(folder / "yolo11n-seg.pt", make("segment", family=11))
    write(folder / "FastSAM-s.pt", make("segment", nc=1))
    write(folder / "yolov8x.pt", make("detect"))
    shutil.copy(folder / "yolov8x.pt", folder / "yolov8n.pt")
    for name, height, width in (
        ("photo.jpg", 500, 1000),
        ("a.jpg", 100, 200),
        ("b.jpg", 100, 200),
        ("big.tif", 300, 600),
        ("path/to/images/1.jpg", 50, 100),
        ("photos/1.jpg", 50, 100),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / name), bgr_image(height, width))
    write_video(folder / "video.mp4", [bgr_image(64, 128)])
    (folder / "labels").mkdir()
    (folder / "labels" / "1.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5\n")
    return folder


@pytest.fixture
def workdir(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a copy of the files, with the official models replaced by small networks."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTSAM_HOME", str(tmp_path / "home"))
    for name, entry in SMALL.items():
        monkeypatch.setitem(registry.MODELS, name, entry)
    checkpoint._expected_shapes.cache_clear()
    yield tmp_path
    checkpoint._expected_shapes.cache_clear()


@pytest.fixture
def text_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the detector of transformers by one that finds each text in the upper left quarter."""

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        self.kind, self.conf, self.iou, self.model = "owlv2", 0.1, 0.5, torch.nn.Linear(1, 1)

    def find(self: Any, image: np.ndarray, texts: Any) -> Detections:
        height, width = image.shape[:2]
        boxes = np.tile(np.array([0, 0, width / 2, height / 2], np.float32), (len(texts), 1))
        scores = np.full(len(texts), 0.9, np.float32)
        return Detections(boxes, scores, np.arange(len(texts)), dict(enumerate(texts)))

    monkeypatch.setattr(OpenVocabularyDetector, "__init__", init)
    monkeypatch.setattr(OpenVocabularyDetector, "find", find)


@pytest.mark.slow
@pytest.mark.once("the examples call the same interface")
@pytest.mark.parametrize("example", EXAMPLES)
def test_python_example_runs(example: str, workdir: Path, text_detector: None) -> None:
    bgr = cv2.imread("photo.jpg")
    names: dict[str, Any] = {
        "image": np.ascontiguousarray(bgr[..., ::-1]),
        "box": np.array([439, 237, 524, 409]),
        # What a detector of one's own would have computed.
        "boxes": np.array([[10, 10, 90, 40]], np.float32),
        "scores": np.array([0.9], np.float32),
        "class_ids": np.array([0]),
        "names": {0: "thing"},
    }
    exec(example, names)
    assert all(isinstance(result, fastsam_core.Results) for result in names.get("results", []))
    assert names.get("status", 200) == 200 and json.dumps(names.get("answer"))
    for folder in re.findall(r'output_dir="(\w+)"', example):
        assert (workdir / folder / "1.txt").read_text(), folder
    for path in re.findall(r'save\("(.+?)"\)', example):
        assert (workdir / path).stat().st_size, path


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("fastsam ")]


@pytest.mark.slow
@pytest.mark.once("the commands call the same interface")
def test_commands_of_the_readme_run(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = readme_commands()
    assert len(commands) == 10
    for command in commands:
        code = cli.main(shlex.split(command, comments=True)[1:])
        assert code == 0, (command, capsys.readouterr())
    assert json.loads((workdir / "labels.json").read_text())["images"][0]["file_name"] == "1.jpg"
    assert (workdir / "objects.gpkg").is_file() and (workdir / "runs" / "segment" / "predict-2").is_dir()
    assert (workdir / "photos_auto_annotate_labels" / "coco.json").is_file()
