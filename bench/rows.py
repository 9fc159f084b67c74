"""The comparisons with peers and their promised ratios, in the order of the tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class RowSpec:
    """One comparison. limit: promised maximum of our time / peer's time, or None. headline: shown in README.md."""

    key: str
    work: str
    peer: str
    limit: float | None = None
    headline: bool = False


@dataclass
class MeasuredRow:
    """The numbers of a row.

    ours_s, peer_s: median seconds of interleaved runs. If `note` says that only a part was timed, they are scaled to
    the whole. difference: how much the outputs of both sides differed in the same run; `difference_of` says by which
    measure.
    """

    key: str
    ours_s: float
    peer_s: float
    ratio: float
    rounds: int
    difference: float
    tolerance: float
    difference_of: str
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, with numbers rounded to four significant digits."""
        row = asdict(self)
        for name in ("ours_s", "peer_s", "ratio", "difference"):
            row[name] = float(f"{row[name]:.4g}")
        return row


ROWS = (
    RowSpec("vit_b_encoder/openvino", "ViT-B encoder, 1024 x 1024", "OpenVINO", 1.0, headline=True),
    RowSpec("vit_b_encoder/onnxruntime", "ViT-B encoder", "ONNX Runtime"),
    RowSpec("vit_b_encoder/transformers", "ViT-B encoder", "transformers, sdpa", 0.45),
    RowSpec("vit_b_encoder_bfloat16/openvino", "ViT-B encoder in bfloat16 (AVX512-BF16)", "OpenVINO in bfloat16", 1.0),
    RowSpec("vit_b_encoder_bfloat16/transformers", "ViT-B encoder in bfloat16", "transformers in bfloat16, sdpa"),
    RowSpec("mobile_sam_encoder/openvino", "MobileSAM encoder", "OpenVINO", 0.95, headline=True),
    RowSpec("mobile_sam_encoder/onnxruntime", "MobileSAM encoder", "ONNX Runtime"),
    RowSpec(
        "decoder/openvino",
        "decoder, 1,024 one-point prompts, all masks",
        "OpenVINO, batches of 64",
        0.35,
        headline=True,
    ),
    RowSpec(
        "decoder_filtered/openvino", "decoder, 1,024 prompts, 60 % fail the IoU filter", "OpenVINO, batches of 64", 0.22
    ),
    RowSpec(
        "decoder_bfloat16/openvino",
        "decoder, 1,024 one-point prompts, all masks, upscaled in bfloat16 (AVX512-BF16)",
        "OpenVINO in bfloat16, batches of 64",
    ),
    RowSpec(
        "everything_sam_b/segment_anything",
        "`sam_b` everything, 1,024 points, 1800 x 1200, photo to RLE",
        "Meta's segment_anything 1.0",
        headline=True,
    ),
    RowSpec(
        "everything_sam_b/openvino",
        "`sam_b` everything, 1,024 points, 1800 x 1200, photo to records",
        "OpenVINO, encoder and 16 decoder batches alone",
        0.30,
        headline=True,
    ),
    RowSpec(
        "everything_sam_b_bfloat16/openvino",
        "`sam_b` everything in bfloat16, likewise",
        "OpenVINO in bfloat16, likewise",
        headline=True,
    ),
    RowSpec(
        "click/transformers", "one click after `set_image`, to a full-size mask", "transformers", 0.2, headline=True
    ),
    RowSpec("click_with_mask/transformers", "a second click, with the mask of the first as a prompt", "transformers"),
    RowSpec(
        "blob_logits/dense",
        "3,072 logits of blobs at 1800 x 1200 to filtered RLE",
        "dense PyTorch, pycocotools",
        0.05,
        headline=True,
    ),
    RowSpec("rle_encode/pycocotools", "RLE encode, 200 masks at 1800 x 1200", "pycocotools", 0.33, headline=True),
    RowSpec("rle_encode/faster_coco_eval", "RLE encode, 200 masks", "faster-coco-eval"),
    RowSpec("rle_decode/pycocotools", "RLE decode, 200 masks", "pycocotools", 0.33),
    RowSpec("rle_decode/faster_coco_eval", "RLE decode, 200 masks", "faster-coco-eval"),
    RowSpec("rle_iou/pycocotools", "RLE iou, 200 x 200 masks", "pycocotools", 0.33),
    RowSpec("rle_iou/faster_coco_eval", "RLE iou, 200 x 200 masks", "faster-coco-eval"),
    RowSpec("nms_10k/pytorch", "NMS, 10,000 random boxes", "PyTorch sibling", 0.1),
)
BY_KEY = {row.key: row for row in ROWS}
