"""Tests `Annotator` in Spark's `mapInPandas`. Skipped without pyspark, pandas, pyarrow and Java."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest

from fastsam_core import Annotator
from fastsam_core.train.scene_data import SceneDataset

pandas = pytest.importorskip("pandas", reason="Spark's batches are pandas'")
pytest.importorskip("pyarrow", reason="Spark brings batches to Python by pyarrow")
sql = pytest.importorskip("pyspark.sql", reason="no Spark")


@pytest.mark.filterwarnings("default")  # Spark itself emits warnings
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs a Java")
def test_spark_gives_the_rows_of_a_direct_call(tmp_path: Path) -> None:
    scenes = SceneDataset(96, seed=3, textures=4)
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), scenes[number].image[:, :, ::-1])
    (tmp_path / "broken.png").write_bytes(b"not an image")
    paths = sorted(str(path) for path in tmp_path.glob("*.png"))
    annotator = Annotator({"det_model": None, "sam_model": "sam_nano.pt", "device": "cpu", "formats": ("yolo", "coco")})
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "2").getOrCreate()
    try:
        frame = spark.createDataFrame([(path,) for path in paths], "path string").repartition(2)
        found = {row.path: row.asDict() for row in frame.mapInPandas(annotator, annotator.schema).collect()}
    finally:
        spark.stop()
    expected = annotator(pandas.DataFrame({"path": paths})).to_dict("records")
    assert [found[row["path"]] for row in expected] == expected and len(found) == len(paths)
    assert sum(row["objects"] for row in expected) > 0
    assert found[str(tmp_path / "broken.png")]["error"].startswith("not an image")
