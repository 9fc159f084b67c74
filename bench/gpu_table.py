"""Tables of GPU results, from the newest saved results of `python -m bench.gpu`."""

from __future__ import annotations

import json
from typing import Any

from .summarise import RESULTS

BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"
# Names of rows that are too detailed for the tables: parts of the decoder; in older results the first is first_look.
_DECODER_PARTS = ("first_token_to_image", "first_look", "first_pass", "second_pass", "upscale")
# Rows that README.md shows, as (group, name).
_HEADLINES = (
    ("everything", "sam_b, photo to RLE, bfloat16, 1024 at once"),
    ("everything", "sam_b, photo to RLE, bfloat16, 64 at once"),
    ("everything", "sam_nano as it comes, photo to RLE, bfloat16"),
    ("encoder", "ours, ViT-B"),
    ("encoder", "ours, ViT-B, FASTSAM_CUDA_GRAPHS=1"),
    ("encoder", "transformers' SamModel, eager"),
    ("encoder", "ours, ViT-H"),
    ("decoder", "ours, 1,024 prompts, all masks"),
    ("decoder", "PyTorch, plain, 1,024 prompts, all masks"),
    ("attention", "ours, ViT-B, 64 x 64"),
    ("attention", "SDPA, bias stored, cudnn_attention"),
    ("attention", "FlexAttention, compiled"),
    ("masks", "ours, 3,072 masks, the stable ones to runs at 1800 x 1200"),
)


def newest() -> dict[str, Any]:
    """Return the newest saved GPU results. Raises FileNotFoundError if there are none."""
    candidates = [json.loads(path.read_text()) for path in RESULTS.glob("*.json") if not path.name.startswith("latest")]
    candidates = [results for results in candidates if results.get("kind") == "gpu"]
    if not candidates:
        raise FileNotFoundError(f"no results of a GPU in {RESULTS}; `python -m bench.gpu` makes them")
    return max(candidates, key=lambda results: str(results["date"]))


def table(results: dict[str, Any]) -> str:
    """Return Markdown of all results: the setup, and each successfully measured row except parts of the decoder."""
    ceilings = results["ceilings"]
    checks = results["checks"]
    passed = sum(row["status"] == "ok" for row in checks)
    # Older results don't have the time of a single call.
    calls = any("call_ms" in row for row in results["rows"])
    lines = [
        f"Measured on {results['date'][:10]} at commit `{results.get('commit', 'unknown')}`: {results['device']}, "
        f"{results['dtype']}, torch {results['versions']['torch']}; {passed} of {len(checks)} checks passed first. A "
        f"large product reached {ceilings['tflops']:.0f} TFLOP/s there, a large copy {ceilings['gb_per_s']:,.0f} GB/s; "
        "the floor is what the work would take at these."
        + (" *One call* has the host's part in it, which other work may hide." if calls else "")
        + (f" {results['remark']}" if "remark" in results else ""),
        "",
        f"| work | median | {'one call | ' * calls}floor | TFLOP/s | first call | peak memory |",
        f"| --- | --- | {'--- | ' * calls}--- | --- | --- | --- |",
    ]
    for row in results["rows"]:
        if row["status"] != "ok" or "ms" not in row or row["name"].endswith(_DECODER_PARTS):
            continue
        note = f" ({row['note']})" if row.get("note") else ""
        cells = [
            f"{row['group']}: {row['name']}{note}",
            _milliseconds(row["ms"]),
            *([_milliseconds(row.get("call_ms"))] if calls else []),
            _milliseconds(row.get("floor_ms")),
            f"{row['tflops']:.3g}" if "tflops" in row else "",
            _milliseconds(row.get("first_ms")),
            _mebibytes(row),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def headlines(results: dict[str, Any]) -> str:
    """Return Markdown of the headline rows."""
    rows = {(row["group"], row["name"]): row for row in results["rows"] if row["status"] == "ok" and "ms" in row}
    return "\n".join(
        [
            f"{results['device']}, {results['dtype']}, torch {results['versions']['torch']}:",
            "",
            "| work | median | peak memory |",
            "| --- | --- | --- |",
            *(
                f"| {group}: {name} | {_milliseconds(row['ms'])} | {_mebibytes(row)} |"
                for (group, name), row in ((key, rows[key]) for key in _HEADLINES if key in rows)
            ),
        ]
    )


def _mebibytes(row: dict[str, Any]) -> str:
    return f"{row['peak_mib']:,.0f} MiB" if "peak_mib" in row else ""


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"
