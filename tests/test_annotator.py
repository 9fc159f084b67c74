"""Tests `Annotator` on batches of rows: dicts, data frames, tables and iterators, pickled and in another process."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotate_kills import detector, make_images, tiny_sam
from fastsam_core import Annotator, Results, auto_annotate
from fastsam_core.annotate import AnnotateConfig
from fastsam_core.detect import CheckedDetector
from fastsam_core.sources import read_image

FORMATS = ("yolo", "coco", "sa1b", "labelme", "png")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    make_images(tmp_path / "images", 3)
    return sorted((tmp_path / "images").rglob("*.png"))


@pytest.fixture(scope="module")
def config() -> AnnotateConfig:
    return AnnotateConfig(detector, tiny_sam(), "cpu", formats=FORMATS)


def test_batch_columns_equal_label_files(images: list[Path], config: AnnotateConfig) -> None:
    target = auto_annotate(images[0].parents[1], detector, config.sam_model, "cpu", formats=FORMATS)
    made = Annotator(config)({"path": [str(path) for path in images]})
    assert list(made) == ["path", "width", "height", "objects", "error", *FORMATS]
    # NumPy's own string and bytes dtypes would drop trailing zeros.
    assert {made[name].dtype for name in ("path", "error", *FORMATS)} == {np.dtype(object)}
    for row, path in enumerate(images):
        stem = path.relative_to(images[0].parents[1]).with_suffix("").as_posix()
        assert made["path"][row] == str(path) and made["error"][row] == ""
        assert (made["height"][row], made["width"][row]) == read_image(path).shape[:2]
        assert made["yolo"][row] == (target / f"{stem}.txt").read_text()
        assert made["png"][row] == (target / "png" / f"{stem}.png").read_bytes()
        written = json.loads((target / "sa1b" / f"{stem}.json").read_text())
        assert json.loads(made["sa1b"][row])["annotations"] == written["annotations"]
        assert len(json.loads(made["coco"][row])["annotations"]) == made["objects"][row] == len(written["annotations"])


def test_pixel_columns_of_every_kind_give_equal_labels(images: list[Path], config: AnnotateConfig) -> None:
    annotator = Annotator(config)
    names = [path.name for path in images]  # not files in the current folder, so the pixel columns are used
    expected = annotator({"path": [str(path) for path in images]})["yolo"].tolist()
    rgb = [read_image(path)[..., ::-1] for path in images]
    column = np.empty(len(rgb), object)
    column[:] = rgb
    for pixels in (
        {"bytes": [path.read_bytes() for path in images]},
        {"image": [path.read_bytes() for path in images]},
        {"image": [{"bytes": path.read_bytes(), "path": None} for path in images]},
        {"image": [{"bytes": None, "path": str(path)} for path in images]},
        {"image": column},
        {"image": [Image.open(path) for path in images]},
    ):
        assert annotator({"path": names, **pixels})["yolo"].tolist() == expected
    palette = Image.open(images[0]).quantize(8)
    labels = [
        annotator({"path": ["a"], "image": [image]})["yolo"][0]
        for image in (palette, np.asarray(palette.convert("RGB")))
    ]
    assert labels[0] == labels[1] != ""


def test_bad_rows_have_an_error(images: list[Path], config: AnnotateConfig, tmp_path: Path) -> None:
    made = Annotator(config)(
        {"path": [str(images[0]), str(tmp_path / "missing.png"), "c"], "bytes": [None, None, b"x"]}
    )
    assert made["error"][0] == "" and "no such file" in made["error"][1] and "not an image" in made["error"][2]
    assert made["objects"].tolist()[1:] == [0, 0] and made["yolo"].tolist()[1:] == ["", ""]
    assert made["png"].tolist()[1:] == [b"", b""]

    def failing(image: np.ndarray) -> Any:
        raise RuntimeError("not today")

    broken = Annotator(config.updated(det_model=failing))
    assert broken({"path": [str(path) for path in images]})["error"].tolist() == ["RuntimeError: not today"] * 3
    with pytest.raises(RuntimeError, match="not today"):
        for _ in range(3):
            broken({"path": [str(path) for path in images]})


def test_paths_outside_the_folder_and_empty_paths(
    images: list[Path], config: AnnotateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images[0].parent)
    named = ["../" + path.relative_to(images[0].parents[1]).as_posix() for path in images[:1]]
    made = Annotator(config)({"path": [*named, ""], "bytes": [None, images[0].read_bytes()]})
    assert made["error"][0] == "" and json.loads(made["labelme"][0])["imagePath"] == images[0].name
    assert "file_name must be" in made["error"][1] and made["objects"][1] == 0 and made["yolo"][1] == ""


def test_iterator_is_processed_one_batch_at_a_time(images: list[Path], config: AnnotateConfig) -> None:
    annotator = Annotator(config)
    expected = annotator({"path": [str(path) for path in images]})["yolo"].tolist()
    read: list[Path] = []

    def batches() -> Iterator[dict[str, list[str]]]:
        for path in images:
            read.append(path)
            yield {"path": [str(path)]}

    made = annotator(batches())
    assert next(made)["yolo"].tolist() == expected[:1] and read == images[:1], "one batch at a time"
    assert [next(made)["yolo"][0] for _ in range(2)] == expected[1:] and read == images


def test_data_frame_gives_a_data_frame(images: list[Path], config: AnnotateConfig) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas isn't installed")
    annotator = Annotator(config)
    frame = pandas.DataFrame({"path": [str(path) for path in images], "bytes": [path.read_bytes() for path in images]})
    made = annotator(frame)
    assert isinstance(made, pandas.DataFrame) and (made["error"] == "").all()
    assert list(made.columns) == [column.split()[0] for column in annotator.schema.split(", ")]
    assert [len(one) for one in annotator(iter([frame, frame]))] == [3, 3]


def test_table_gives_a_table(images: list[Path], config: AnnotateConfig) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow isn't installed")
    table = pyarrow.table({"path": [str(path) for path in images], "bytes": [path.read_bytes() for path in images]})
    made = Annotator(config)(table)
    assert isinstance(made, pyarrow.Table) and made["error"].to_pylist() == ["", "", ""]


class Frame:
    """Stand-in for a DataFrame of pandas."""

    def __init__(self, data: dict[str, list[Any]]) -> None:
        self.data, self.columns = data, list(data)

    def __getitem__(self, name: str) -> np.ndarray:
        return np.array(self.data[name], object)


class Table:
    """Stand-in for a Table of pyarrow, which is made by `from_pydict` alone."""

    data: dict[str, list[Any]]

    @classmethod
    def from_pydict(cls, data: dict[str, list[Any]]) -> Table:
        made = cls()
        made.data = data
        return made

    @property
    def column_names(self) -> list[str]:
        return list(self.data)

    def __getitem__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(to_pylist=lambda: self.data[name])


@pytest.mark.parametrize(("package", "kind"), [("pandas", Frame), ("pyarrow", Table)])
def test_batch_of_a_package_gives_one_of_its_own_type(
    images: list[Path], config: AnnotateConfig, monkeypatch: pytest.MonkeyPatch, package: str, kind: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, SimpleNamespace(**{{"pandas": "DataFrame"}.get(package, "Table"): kind}))
    columns = {"path": ["a", "b"], "bytes": [images[0].read_bytes(), b"broken"]}
    made = Annotator(config)(kind(columns) if kind is Frame else kind.from_pydict(columns))
    expected = Annotator(config)(columns)
    assert type(made) is kind and made.data == {name: column.tolist() for name, column in expected.items()}
    assert made.data["error"][0] == "" and "not an image" in made.data["error"][1]


def test_scores_have_six_decimals(images: list[Path], config: AnnotateConfig) -> None:
    def found(image: np.ndarray) -> Any:
        boxes, scores, class_ids, names = detector(image)
        return boxes, [0.623456789] * len(scores), class_ids, names

    (result,) = Annotator(config.updated(det_model=found)).label([read_image(images[0])], ["a.png"])
    assert isinstance(result, Results) and set(result.rows()[:, 4].tolist()) == {0.623457}


def test_texts_are_found_by_the_default_model_unless_one_is_named(
    config: AnnotateConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[Any] = []

    def load(texts: list[str], model: Any, **options: Any) -> CheckedDetector:
        assert texts == ["a dog"] and options == {"conf": 0.25, "iou": 0.45, "max_det": 300, "device": "cpu"}
        models.append(model)
        return CheckedDetector(detector)

    monkeypatch.setattr("fastsam_core.annotate.annotator.load_text_detector", load)
    for det_model in ("yolov8x.pt", None, "owlv2"):
        Annotator(AnnotateConfig(det_model, config.sam_model, "cpu", texts="a dog")).load()
    assert models == [None, None, "owlv2"]


def test_schema_is_in_sparks_syntax(config: AnnotateConfig) -> None:
    assert Annotator(config).schema == (
        "path string, width int, height int, objects int, error string, yolo string, coco string, sa1b string, "
        "labelme string, png binary"
    )


@pytest.mark.parametrize(("batch", "said"), [({"file": ["a"], 3: ["b"]}, "file, 3"), ({}, "none")])
def test_missing_path_column_is_refused(batch: dict[Any, Any], said: str, config: AnnotateConfig) -> None:
    with pytest.raises(ValueError, match=f"needs the column path, and has {said}$"):
        Annotator(config)(batch)


def test_batch_of_another_type_is_refused(config: AnnotateConfig) -> None:
    with pytest.raises(TypeError, match="a batch is a dict of columns"):
        Annotator(config)(["a.jpg"])


@pytest.mark.parametrize(
    ("batch", "error", "said"),
    [
        ({"path": ["a", "b"], "bytes": [b""]}, ValueError, "one length: path 2, bytes 1"),
        ({"path": "a.jpg"}, TypeError, "the column path must be a list or an array, not str"),
        ({"path": ["a"], "image": None}, TypeError, "the column image must be a list or an array"),
    ],
)
def test_wrong_columns_are_refused(
    batch: dict[str, Any], error: type[Exception], said: str, config: AnnotateConfig
) -> None:
    with pytest.raises(error, match=said):
        Annotator(config)(batch)


def test_empty_batch_has_empty_columns(config: AnnotateConfig) -> None:
    made = Annotator(config)({"path": []})
    assert {len(column) for column in made.values()} == {0}
    whole = [name for name, column in made.items() if column.dtype == np.int64]
    assert whole == ["width", "height", "objects"]  # the dtypes of other batches, so that they can be concatenated


def test_models_are_loaded_on_first_use(images: list[Path]) -> None:
    annotator = Annotator({"det_model": "missing.pt", "sam_model": "missing_too.pt"})
    assert len(pickle.dumps(annotator)) < 1000, "names are pickled, not weights"
    with pytest.raises(FileNotFoundError):
        annotator({"path": [str(images[0])]})


def test_pickling_drops_loaded_models(images: list[Path], config: AnnotateConfig) -> None:
    annotator = Annotator(config)
    before = annotator({"path": [str(images[0])]})["yolo"][0]
    copy = pickle.loads(pickle.dumps(annotator))
    assert copy._models is None and annotator._models is not None
    assert copy({"path": [str(images[0])]})["yolo"][0] == before
    assert copy.settings() == annotator.settings()


def _in_another_process(annotator: Annotator, path: str) -> tuple[str, dict[str, Any]]:
    return annotator({"path": [path]})["yolo"][0], annotator.settings()


def test_annotator_works_in_another_process(images: list[Path], config: AnnotateConfig) -> None:
    """The process is spawned, not forked, so that it gets nothing but the pickle."""
    annotator = Annotator(config)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        text, settings = pool.apply(_in_another_process, (annotator, str(images[0])))
    assert text == annotator({"path": [str(images[0])]})["yolo"][0]
    assert settings == annotator.settings()
