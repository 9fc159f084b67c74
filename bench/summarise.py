"""Keep the figures that matter of a benchmark run: `python bench/summarise.py bench/results/NAME.json`.

Reads `bench/results/latest.json`, which `make bench` writes, and keeps each group's medians in seconds, and their
ratios to the fastest, beside the processor and the versions they were taken with.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy
import torch

import fastsam_core
from fastsam_core import ops
from fastsam_core._files import write_text

LATEST = Path(__file__).parent / "results" / "latest.json"


def summary(run: dict[str, Any]) -> dict[str, Any]:
    """The part of pytest-benchmark's report that is kept."""
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for bench in run["benchmarks"]:
        groups[bench["group"]][bench["name"]] = bench["stats"]["median"]
    cpu = run["machine_info"]["cpu"]
    return {
        "date": run["datetime"][:10],
        "processor": cpu.get("brand_raw", "unknown"),
        "instruction_set": ops.isa(),
        "threads": torch.get_num_threads(),
        "versions": {"fastsam_core": fastsam_core.__version__, "torch": torch.__version__, "numpy": numpy.__version__},
        "groups": {
            group: {
                name: {"median_s": float(f"{median:.4g}"), "ratio": round(median / min(medians.values()), 2)}
                for name, median in sorted(medians.items(), key=lambda item: item[1])
            }
            for group, medians in sorted(groups.items())
        },
    }


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    write_text(sys.argv[1], json.dumps(summary(json.loads(LATEST.read_text())), indent=1) + "\n")
