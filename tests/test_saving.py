"""Files that prediction writes: run folders, images, videos, labels and crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastsam_core import Predictor, Results
from fastsam_core.config import Config
from fastsam_core.models.sam_model import SamModel
from fastsam_core.saving import ResultWriter, _is_complete_avi, create_run_folder
from fastsam_core.sources import Item, Source, load_sources
from image_examples import write_video
from small_model import QUIET, bgr_image

BOXES = [[4.0, 6.0, 40.0, 30.0], [20.0, 10.0, 60.0, 40.0]]


@pytest.fixture(autouse=True)
def work_in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def predictor(model: SamModel) -> Predictor:
    """Return a predictor that saves its results, which is the default of Predictor."""
    return Predictor(overrides={"model": model, **QUIET, "save": True})


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def make_video(path: Path, count: int = 4) -> Path:
    return write_video(path, [np.roll(bgr_image(48, 64), 4 * i, axis=1) for i in range(count)])


def test_run_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "runs" / "segment"
    assert [create_run_folder(Config()).relative_to(base).name for _ in range(3)] == [
        "predict",
        "predict-2",
        "predict-3",
    ]
    assert create_run_folder(Config(exist_ok=True)) == base / "predict"
    assert create_run_folder(Config(project="trees", name="oak")) == base / "trees" / "oak"
    assert create_run_folder(Config(project=str(tmp_path / "out"), name="x")) == tmp_path / "out" / "x"
    assert create_run_folder(Config(project=str(tmp_path / "out"), name="x")) == tmp_path / "out" / "x-2"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert create_run_folder(Config(project="~/out", name="x")) == tmp_path / "out" / "x-3"


def test_unwritable_project_folder_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"\(give project= to choose another folder, or save=False") as caught:
        create_run_folder(Config(project=str(tmp_path / "file" / "out")))
    assert caught.value.filename.startswith(str(tmp_path / "file"))
    (tmp_path / "predict").write_bytes(b"")
    with pytest.raises(FileExistsError):
        create_run_folder(Config(project=str(tmp_path), exist_ok=True))


def test_link_to_a_missing_disk_is_reported(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(tmp_path / "missing")
    with pytest.raises(OSError, match=r"\(give project= to choose another folder"):
        create_run_folder(Config())


def test_predictor_saves_all_results_to_one_folder(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import cv2

    image = bgr_image(48, 64)
    result = predictor(image, bboxes=BOXES)[0]
    folder = tmp_path / "runs" / "segment" / "predict"
    assert result.save_dir == str(folder) == str(predictor.save_dir)
    assert files(folder) == ["image0.jpg"]
    assert str(folder) in capsys.readouterr().err
    drawn = cv2.imread(str(folder / "image0.jpg"))
    assert drawn.shape == image.shape and np.abs(drawn.astype(int) - image).mean() > 3
    predictor.set_image(image)
    predictor(points=[3, 4])
    assert files(tmp_path / "runs") == ["segment/predict/image0.jpg"], "the latest result stands"
    predictor(image, bboxes=BOXES, name="other")
    assert files(tmp_path / "runs") == ["segment/other/image0.jpg", "segment/predict/image0.jpg"]


def test_a_callback_that_fails_at_the_start_leaves_no_folder(predictor: Predictor, tmp_path: Path) -> None:
    def fail(_: Predictor) -> None:
        raise RuntimeError("not today")

    predictor.add_callback("on_predict_start", fail)
    with pytest.raises(RuntimeError, match="not today"):
        predictor(bgr_image(48, 64), bboxes=BOXES)
    assert list((tmp_path / "runs" / "segment").iterdir()) == []


def test_nothing_is_written_with_save_false(model: SamModel, tmp_path: Path) -> None:
    result = Predictor(overrides={"model": model, **QUIET})(bgr_image(48, 64), bboxes=BOXES)[0]
    assert list(tmp_path.iterdir()) == [] and result.save_dir is None


def test_images_with_equal_stems_do_not_overwrite_each_other(predictor: Predictor, tmp_path: Path) -> None:
    import cv2

    sources = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png", tmp_path / "b" / "X.bmp"]
    for source in sources:
        source.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(source), bgr_image(24, 32))
    predictor(sources, bboxes=BOXES[0], save_txt=True)
    assert predictor.save_dir is not None
    names = ["X-3", "x", "x-2"]
    assert files(predictor.save_dir) == sorted([f"{n}.jpg" for n in names] + [f"labels/{n}.txt" for n in names])


@pytest.mark.parametrize("frame", [None, 0])
def test_free_names_are_found_at_once_among_many_equal_ones(frame: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    is_taken, checks = ResultWriter._is_taken, []
    monkeypatch.setattr(ResultWriter, "_is_taken", lambda *args: checks.append(args) or is_taken(*args))
    writer = ResultWriter(Path(), Config())
    stems = [writer._stem(Item(None, f"{index}/x.png", index=index, frame=frame)) for index in range(40)]
    assert stems == ["x", *(f"x-{number}" for number in range(2, 41))] and len(checks) <= 80


def test_files_of_an_address_are_named_without_its_password_and_query(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path, Config(save_txt=True))
    paths = [
        "https://x.org/a.jpg?key=1/2.3",
        "http://x.org/b.png#" + "c" * 999,
        "http://x.org/" + "d" * 999,
        "e#f.jpg",
        "rtsp://me:wo#d?@camera/",
        "http://x.org/@me/g@2x.png",
    ]
    for index, path in enumerate(paths):
        result = Results(bgr_image(24, 32), path, {0: "a"}, np.array([[1, 1, 9, 9, 1, 0]]))
        writer.write(Item(None, path, index=index), result)
    assert files(tmp_path / "labels") == ["a.txt", "b.txt", "camera.txt", "d" * 60 + ".txt", "e#f.txt", "g@2x.txt"]


def test_images_too_large_for_jpeg_are_saved_as_png(predictor: Predictor) -> None:
    """Images over JPEG's limit of 65500 pixels a side are saved as PNG; they don't end the run."""
    images = [np.full(shape, 90, np.uint8) for shape in ((48, 80, 3), (2, 65501, 3), (65500, 2, 3))]
    assert len(predictor(images, bboxes=[0, 0, 65501, 65501])) == 3
    assert predictor.save_dir is not None
    assert files(predictor.save_dir) == ["image0.jpg", "image1.png", "image2.jpg"]
    Results(images[1], "long", {0: "line"}, np.array([[0, 0, 65501, 2, 1, 0]] * 2)).save_crop("crops")
    assert files(Path("crops")) == ["line/im-2.png", "line/im.png"]


def test_boxes_outside_the_image_give_no_crop(caplog: pytest.LogCaptureFixture) -> None:
    outside = [[64, 0, 70, 9], [0, 48, 9, 50], [-9, 0, -1, 9], [0, -9, 9, -1]]
    at_the_border = [[63, 0, 70, 9], [0, 47, 9, 50], [-9, 0, 0, 9], [0, -9, 9, 0]]
    boxes = np.array([[*box, 1, class_id] for class_id, group in enumerate((outside, at_the_border)) for box in group])
    Results(bgr_image(48, 64), "a", {0: "out", 1: "in"}, boxes).save_crop("crops")
    assert files(Path("crops")) == ["in/im-2.jpg", "in/im-3.jpg", "in/im-4.jpg", "in/im.jpg"]
    assert caplog.text.count("lies outside the image; no crop is written") == 4


def test_save_txt_and_save_crop(predictor: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"save": False, "save_txt": True, "save_conf": True, "save_crop": True}
    result = predictor(bgr_image(48, 64), bboxes=BOXES, **options)[0]
    assert predictor.save_dir is not None
    label = predictor.save_dir / "labels" / "image0.txt"
    rows = label.read_text().splitlines()
    assert [row.split()[0] for row in rows] == ["0", "1"]
    assert float(rows[0].split()[-1]) == pytest.approx(float(result.predicted_iou[0]), rel=1e-4)
    predictor(bgr_image(48, 64), bboxes=BOXES, **options)
    assert label.read_text().splitlines() == rows, "replaced, not appended to"
    crops = [name for name in files(predictor.save_dir) if name.startswith("crops")]
    assert crops == ["crops/0/image0-2.jpg", "crops/0/image0.jpg", "crops/1/image0-2.jpg", "crops/1/image0.jpg"]
    folder = predictor.save_dir
    said = f"Results saved to {folder}, 1 label file in {folder / 'labels'}\n"
    assert capsys.readouterr().err == said * 2
    predictor(bgr_image(48, 64), bboxes=[], save=False, save_txt=True)
    assert not label.exists(), "no objects, no file"
    assert "0 label files" in capsys.readouterr().err


def test_video_is_saved_with_its_frames_and_labels(predictor: Predictor, tmp_path: Path) -> None:
    import cv2

    make_video(tmp_path / "film.avi")
    results = predictor(tmp_path / "film.avi", bboxes=BOXES[0], stream=True, save_txt=True, save_frames=True)
    assert sum(1 for _ in results) == 4
    assert predictor.save_dir is not None
    assert files(predictor.save_dir) == [
        "film.avi",
        *(f"film_frames/film_{i}.jpg" for i in range(4)),
        *(f"labels/film_{i}.txt" for i in range(4)),
    ]
    capture = cv2.VideoCapture(str(predictor.save_dir / "film.avi"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and capture.get(cv2.CAP_PROP_FPS) == 8
    capture.release()


def test_frames_are_saved_as_images_if_the_video_cannot_be_opened(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    video = make_video(tmp_path / "clip.avi", 2)
    monkeypatch.setattr("cv2.VideoWriter.isOpened", lambda self: False, raising=False)
    assert len(list(predictor(video, bboxes=BOXES, stream=True))) == 2
    assert predictor.save_dir is not None
    assert files(predictor.save_dir) == ["clip_frames/clip_0.jpg", "clip_frames/clip_1.jpg"]
    (message,) = caplog.messages
    assert "can't write a video of 64 x 48 pixels at 8 frames per second to" in message
    assert message.endswith("clip.avi; its frames are written as images")


def test_frame_of_another_size_is_fitted_to_its_video(tmp_path: Path) -> None:
    writer = ResultWriter(tmp_path, Config())
    for number, image in enumerate((bgr_image(48, 64), bgr_image(24, 32))):
        writer.write(Item(image, "rtsp://camera", frame=number, kind="stream"), Results(image, "camera", {}))
    writer.close()
    assert [item.image.shape for item in load_sources(tmp_path / "camera.avi")] == [(48, 64, 3)] * 2


def test_each_of_two_streams_gets_a_video_of_its_own_frames(tmp_path: Path) -> None:
    writer, image = ResultWriter(tmp_path, Config(save=True)), bgr_image(24, 32)
    for number in range(3):
        for index in range(2):
            item = Item(image, f"rtsp://camera{index}/live", frame=number, index=index, kind="stream")
            writer.write(item, Results(image, item.path, {}))
    writer.close()
    for name in ("live.avi", "live-2.avi"):
        assert len(list(load_sources(tmp_path / name))) == 3


def test_source_is_closed_even_if_a_video_can_not_be_finished(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(writer: ResultWriter) -> None:
        raise OSError("disk full")

    closed: list[Source] = []
    monkeypatch.setattr(Source, "close", lambda source: closed.append(source))
    monkeypatch.setattr(ResultWriter, "close", fail)
    with pytest.raises(OSError, match="disk full"):
        predictor(bgr_image(48, 64), bboxes=BOXES)
    assert closed == [predictor.dataset]


def test_closing_the_stream_early_leaves_a_readable_video(predictor: Predictor, tmp_path: Path) -> None:
    import cv2

    make_video(tmp_path / "film.avi")
    results = predictor(tmp_path / "film.avi", bboxes=BOXES[0], stream=True)
    next(results)
    next(results)
    assert predictor.save_dir is not None
    results.close()
    assert files(predictor.save_dir) == ["film.avi"]
    capture = cv2.VideoCapture(str(predictor.save_dir / "film.avi"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 2
    capture.release()


def test_frames_of_a_too_narrow_video_are_saved_as_images(
    predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    """Frames are saved as images instead: at this width OpenCV's writer would overwrite other memory."""
    first, *more = (Image.new("RGB", (3, 1000), (80 * i, 0, 0)) for i in range(3))
    first.save("a.gif", save_all=True, append_images=more)
    assert len(predictor("a.gif", bboxes=[0, 0, 3, 900])) == 3
    assert predictor.save_dir is not None
    assert files(predictor.save_dir) == ["a_frames/a_0.jpg", "a_frames/a_1.jpg", "a_frames/a_2.jpg"]
    assert "must be at least 8 pixels wide; got 3" in caplog.text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", False),
        (bytes(16), False),
        (b"RIFF\x08\0", False),
        (b"RIFF\x08\0\0\0" + bytes(7), False),
        (b"RIFF\x08\0\0\0" + bytes(8), True),
        (b"RIFF\x08\0\0\0" + bytes(16), False),
        ((b"RIFF\x08\0\0\0" + bytes(8)) * 2, True),
    ],
)
def test_video_is_complete_if_its_chunks_fill_the_file(tmp_path: Path, content: bytes, expected: bool) -> None:
    (tmp_path / "a.avi").write_bytes(content)
    assert _is_complete_avi(tmp_path / "a.avi") is expected


def test_each_video_of_a_folder_gets_its_own_file(predictor: Predictor, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    make_video(folder / "a.avi", 2)
    make_video(folder / "b.avi", 3)
    results = predictor(folder, bboxes=BOXES[0], stream=True)
    seen = [(Path(result.path).name, (Path(result.save_dir) / "a.avi").exists()) for result in results]
    assert seen == [("a.avi", False)] * 2 + [("b.avi", True)] * 3  # a video is complete before the next one begins
    assert predictor.save_dir is not None
    assert files(predictor.save_dir) == ["a.avi", "b.avi"]


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (["film_1.png", "film.avi"], ["film-2_0", "film-2_1", "film_1"]),
        (["film.avi", "film_1.png"], ["film_0", "film_1-2", "film_1"]),
        (["film.avi", "more/film.avi"], ["film-2_0", "film-2_1", "film_0", "film_1"]),
    ],
)
def test_label_files_of_images_and_video_frames_do_not_collide(
    predictor: Predictor, tmp_path: Path, order: list[str], names: list[str]
) -> None:
    """Frames that a program extracted from a video are often named like the label files of that video."""
    import cv2

    (tmp_path / "more").mkdir()
    for film in ("film.avi", "more/film.avi"):
        make_video(tmp_path / film, 2)
    cv2.imwrite(str(tmp_path / "film_1.png"), bgr_image(24, 32))
    list(predictor([str(tmp_path / name) for name in order], bboxes=BOXES[0], save=False, save_txt=True, stream=True))
    assert predictor.save_dir is not None
    assert files(predictor.save_dir) == [f"labels/{name}.txt" for name in names]


def test_set_image_refuses_a_video(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="video"):
        predictor.set_image(make_video(tmp_path / "film.avi"))


def test_failed_call_leaves_no_empty_folder(predictor: Predictor, tmp_path: Path) -> None:
    image = bgr_image(48, 64)
    for wrong in ({"device": "cuda:99"}, {"masks": np.zeros((3, 3))}):
        with pytest.raises(ValueError, match=r"cuda:99|masks"):
            predictor(image, **wrong)
        assert list((tmp_path / "runs" / "segment").iterdir()) == []
    predictor(image, bboxes=BOXES)
    assert files(tmp_path) == ["runs/segment/predict/image0.jpg"]


def test_folder_removed_after_a_failed_call_is_free_for_another_predictor(predictor: Predictor, tmp_path: Path) -> None:
    other, image = Predictor(predictor.args), bgr_image(48, 64)
    with pytest.raises(ValueError, match="cuda:99"):
        predictor(image, device="cuda:99")
    for caller in (other, predictor, predictor):
        caller(image, bboxes=BOXES)
    assert files(tmp_path / "runs" / "segment") == ["predict-2/image0.jpg", "predict/image0.jpg"]
