"""Evaluate edges against human boundaries such as BSDS500's: `python -m bench.evaluate_edges IMAGES TRUTH --model ...`.

TRUTH is a folder with one file per image, of the same stem: BSDS's .mat (`groundTruth`), .npy with one boundary map
(H, W) or one per annotator (A, H, W), or .png with one map. The output has ODS and OIS (the best F over all images with
one common threshold, and with the best threshold of each image), AP, and R50 (recall at a precision of 0.5).

The procedure is the Berkeley benchmark's. At each threshold the edge map is thinned and matched one to one with each
annotator's boundaries, within 0.0075 of the image's diagonal. Recall counts matched pixels over all annotators. An edge
pixel is correct if any annotator's boundary matches it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from .edge_matching import match, neighbours

TOLERANCE = 0.0075


def count_matches(edges: np.ndarray, truths: list[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Count pixels at each of T thresholds: matched and all boundary pixels, correct and all edge pixels, (T, 4) int64.

    edges: (H, W) in [0, 1]. truths: (H, W) bool boundary maps, one per annotator.
    """
    from skimage.morphology import thin

    radius = TOLERANCE * float(np.hypot(*edges.shape))
    edge_points = np.argwhere(edges > 0)
    point_index = np.full(edges.shape, -1)
    point_index[tuple(edge_points.T)] = np.arange(len(edge_points))
    distances = [neighbours(edge_points, np.argwhere(truth), radius) for truth in truths]
    counts = np.zeros((len(thresholds), 4), np.int64)
    for row, threshold in enumerate(thresholds):
        thinned = point_index[thin(edges >= max(threshold, 1e-9))]
        is_correct = np.zeros(len(thinned), bool)
        for pairs in distances:
            truth_of_edge, edge_of_truth = match(pairs[thinned])
            is_correct |= truth_of_edge >= 0
            counts[row, :2] += (edge_of_truth >= 0).sum(), pairs.shape[1]
        counts[row, 2:] = is_correct.sum(), len(thinned)
    return counts


def scores(per_image: np.ndarray) -> dict[str, float]:
    """Compute ODS, OIS, AP and R50 from the counts of N images, (N, T, 4), with ascending thresholds."""
    recall, precision, f_measure = _curve(per_image.sum(0))
    _, _, f_of_image = _curve(per_image)
    best = per_image[np.arange(len(per_image)), f_of_image.argmax(1)].sum(0)
    # Area under precision over recall, interpolated linearly between the measured points.
    recalls, first_indices = np.unique(recall, return_index=True)
    grid = np.linspace(0, 1, 101)
    is_measured = (grid >= recalls[0]) & (grid <= recalls[-1])
    ap = np.interp(grid[is_measured], recalls, precision[first_indices]).sum() / 100 if len(recalls) > 1 else 0.0
    sufficient_recall = recall[precision >= 0.5]
    return {
        "ODS": float(f_measure.max()),
        "OIS": float(_curve(best)[2]),
        "AP": float(ap),
        "R50": float(sufficient_recall.max()) if len(sufficient_recall) else 0.0,
    }


def _curve(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return recall, precision and F of counts (..., 4)."""
    matched, all_truth, correct, all_edges = (counts[..., i] for i in range(4))
    recall, precision = matched / np.maximum(all_truth, 1), correct / np.maximum(all_edges, 1)
    return recall, precision, 2 * recall * precision / np.maximum(recall + precision, 1e-12)


def read_truth(path: Path) -> list[np.ndarray]:
    """Read boundary maps (H, W) bool, one per annotator. Raises ValueError for another kind of file or shape."""
    maps: Any
    if path.suffix == ".mat":
        from scipy.io import loadmat

        maps = [entry["Boundaries"][0, 0] for entry in loadmat(path)["groundTruth"].ravel()]
    elif path.suffix == ".npy":
        maps = np.load(path, allow_pickle=False)
    elif path.suffix == ".png":
        from PIL import Image

        maps = np.asarray(Image.open(path).convert("L"))
    else:
        raise ValueError(f"{path}: boundaries are read from .mat, .npy and .png files")
    stacked = np.asarray(maps) != 0
    if stacked.ndim not in (2, 3):
        raise ValueError(f"{path} holds an array {stacked.shape}; (H, W) or (annotators, H, W) is needed")
    return list(stacked if stacked.ndim == 3 else stacked[None])


def main() -> None:
    from tqdm import tqdm

    from fastsam_core import SAM
    from fastsam_core.sources.decode import read_image

    parser = argparse.ArgumentParser("python -m bench.evaluate_edges", description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--model", default="sam_nano.pt")
    parser.add_argument("--thresholds", type=int, default=99, help="how many, evenly spaced; the benchmark has 99")
    parser.add_argument("--limit", type=int, help="the first so many images only")
    options = parser.parse_args()
    truths = sorted(path for path in options.truth.iterdir() if path.suffix in (".mat", ".npy", ".png"))
    stems = {path.stem: path for path in options.images.iterdir() if path.is_file()}
    thresholds = np.linspace(0, 1, options.thresholds + 2)[1:-1]
    model = SAM(options.model)
    image_counts = []
    for truth in tqdm(truths[: options.limit], unit="image"):
        if truth.stem not in stems:
            raise FileNotFoundError(f"no image {truth.stem}.* in {options.images} for {truth}")
        edges = model.edges(read_image(stems[truth.stem]), verbose=False)
        image_counts.append(count_matches(edges, read_truth(truth), thresholds))
    if not image_counts:
        raise FileNotFoundError(f"no .mat, .npy or .png file in {options.truth}")
    print(json.dumps({"images": len(image_counts), "model": options.model, **scores(np.stack(image_counts))}))


if __name__ == "__main__":
    main()
