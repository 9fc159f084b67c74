"""Tests the benchmark's measures of edges and proposals on cases with known scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("skimage", reason="thinning and matching need scikit-image and SciPy, from the extra `bench`")

from bench import evaluate_edges, evaluate_proposals
from bench.edge_matching import match, neighbours
from scipy.sparse.csgraph import maximum_bipartite_matching

from label_examples import encoded

points = st.integers(0, 25).flatmap(lambda n: arrays(np.int64, (n, 2), elements=st.integers(0, 12)))
HALF = np.array([0.5])


@settings(max_examples=100, deadline=None)
@given(first=points, second=points, radius=st.sampled_from([1.0, 2.5, 4.0]))
def test_match_is_a_maximum_matching_of_neighbours(first: np.ndarray, second: np.ndarray, radius: float) -> None:
    near = neighbours(first, second, radius)
    of_first, of_second = match(near)
    pairs = [(i, j) for i, j in enumerate(of_first.tolist()) if j >= 0]
    assert all(of_second[j] == i for i, j in pairs) and (of_second >= 0).sum() == len(pairs)
    assert all(np.hypot(*(first[i] - second[j])) <= radius for i, j in pairs)
    assert len(pairs) == (maximum_bipartite_matching(near, perm_type="column") >= 0).sum()


def lines(*columns: int) -> np.ndarray:
    drawn = np.zeros((300, 400), bool)
    drawn[20:280, list(columns)] = True
    return drawn


# The tolerance here is 0.0075 * 500 = 3.75 pixels.
@pytest.mark.parametrize(
    ("edges", "truths", "recall", "precision"),
    [
        (lines(50), [lines(50)], 1, 1),
        (lines(53), [lines(50)], 1, 1),
        (lines(54), [lines(50)], 0, 0),
        (lines(50, 52), [lines(50)], 1, 0.5),  # each boundary pixel is matched once
        (lines(50), [lines(50, 200)], 0.5, 1),
        (lines(50, 200), [lines(50), lines(200)], 1, 1),  # one edge of each annotator
        (lines(50), [lines(50), lines(200)], 0.5, 1),
        (lines(), [lines(50)], 0, 0),
    ],
)
def test_matched_edge_pixel_counts(
    edges: np.ndarray, truths: list[np.ndarray], recall: float, precision: float
) -> None:
    matched, everything, right, drawn = evaluate_edges.count_matches(edges.astype(np.float32), truths, HALF)[0].tolist()
    assert everything == sum(int(truth.sum()) for truth in truths)
    assert matched == pytest.approx(recall * everything, abs=4)
    assert right == pytest.approx(precision * drawn, abs=4)


def test_edge_scores() -> None:
    # Two images, two thresholds. The first is best at the first threshold, the second at the second.
    found = np.array([[[80, 100, 80, 100], [10, 100, 10, 10]], [[90, 100, 90, 300], [60, 100, 60, 60]]])
    scores = evaluate_edges.scores(found)
    together = [(170 / 200, 170 / 400), (70 / 200, 1.0)]
    assert scores["ODS"] == pytest.approx(max(2 * r * p / (r + p) for r, p in together))
    assert scores["OIS"] == pytest.approx(2 * 0.7 * (140 / 160) / (0.7 + 140 / 160))
    grid = np.linspace(0, 1, 101)
    inside = [r for r in grid if 0.35 <= r <= 0.85]
    expected = sum(1.0 + (r - 0.35) / 0.5 * (0.425 - 1.0) for r in inside) / 100
    assert scores["AP"] == pytest.approx(expected) and scores["R50"] == pytest.approx(0.35)


def test_ground_truth_files_are_read(tmp_path: Path) -> None:
    from PIL import Image
    from scipy.io import savemat

    first, second = lines(3), lines(7)
    entries = np.empty((1, 2), object)
    for place, drawn in enumerate((first, second)):
        entries[0, place] = {"Boundaries": drawn.astype(np.uint8), "Segmentation": np.ones(drawn.shape, np.uint16)}
    savemat(tmp_path / "a.mat", {"groundTruth": entries})
    np.save(tmp_path / "a.npy", np.stack([first, second]))
    Image.fromarray(first.astype(np.uint8) * 255).save(tmp_path / "a.png")
    for name, maps in (("a.mat", (first, second)), ("a.npy", (first, second)), ("a.png", (first,))):
        read = evaluate_edges.read_truth(tmp_path / name)
        assert len(read) == len(maps) and all((one == other).all() for one, other in zip(read, maps, strict=True))
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(ValueError, match="annotators, H, W"):
        evaluate_edges.read_truth(tmp_path / "b.npy")


def test_average_recall_of_proposals() -> None:
    masks = np.zeros((3, 200, 200), bool)
    masks[0, 10:110, 10:110] = masks[1, 120:140, 20:40] = True
    masks[2, 10:110, 10:84] = True  # an IoU of 0.74 with the first: five of the ten thresholds
    large, small, part = (encoded(mask) for mask in masks)
    found = evaluate_proposals.average_recall([([large, small], [large, small], [0.9, 0.8])], (1, 10))
    assert found["AR@1"] == 0.5 and found["AR@10"] == found["AR@10 small"] == found["AR@10 large"] == 1
    assert np.isnan(found["AR@10 medium"])
    found = evaluate_proposals.average_recall([([large, small], [part], [0.9])], (10,))
    assert found["AR@10"] == pytest.approx(0.25) and found["AR@10 large"] == pytest.approx(0.5)
    # A duplicate proposal doesn't raise the recall, and the scores decide which proposals are the first n.
    found = evaluate_proposals.average_recall([([large, small], [small, large, large], [0.1, 0.2, 0.3])], (1, 2, 3))
    assert [found[f"AR@{n}"] for n in (1, 2, 3)] == [0.5, 0.5, 1.0]
