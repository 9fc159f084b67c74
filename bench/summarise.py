"""The results file of a run: machine, commit, versions, rows beside peers, and medians of pytest-benchmark's groups."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

import fastsam_core
from fastsam_core import ops
from fastsam_core._files import write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
LATEST, LATEST_ROWS = RESULTS / "latest.json", RESULTS / "latest-rows.json"
PACKAGES = (
    "torch",
    "numpy",
    "openvino",
    "onnxruntime",
    "onnx",
    "transformers",
    "segment-anything",
    "pycocotools",
    "faster-coco-eval",
)


def processor() -> str:
    """Return the processor's model name, or what the platform reports if /proc/cpuinfo has none."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine_name() -> str:
    """Return processor and number of cores for file names, as in `amd-epyc-2core`."""
    name = re.sub(r"\(r\)|\(tm\)|cpu|processor|@.*", " ", processor().lower())
    return f"{'-'.join(re.findall(r'[a-z0-9]+', name))}-{os.cpu_count()}core"


def commit() -> str:
    """Return the measured commit, with "+" appended if the tree has changes; "unknown" outside a git clone."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of this package and of the installed packages of `PACKAGES`."""
    installed = {"fastsam_core": fastsam_core.__version__}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return installed


def groups(report: dict[str, Any]) -> dict[str, Any]:
    """Return the median seconds of each member of pytest-benchmark's groups, and its ratio to the group's fastest."""
    medians: dict[str, dict[str, float]] = defaultdict(dict)
    for benchmark in report["benchmarks"]:
        medians[benchmark["group"] or benchmark["fullname"]][benchmark["name"]] = benchmark["stats"]["median"]
    return {
        group: {
            name: {"median_s": float(f"{median:.4g}"), "ratio": round(median / min(members.values()), 2)}
            for name, median in sorted(members.items(), key=lambda item: item[1])
        }
        for group, members in sorted(medians.items())
    }


def summary(report: dict[str, Any], rows: dict[str, Any], threads: int) -> dict[str, Any]:
    """Return the contents of the results file.

    report: pytest-benchmark's. rows: `RowCollector.as_dict` of the run.
    """
    return {
        "date": report["datetime"][:10],
        "time": report["datetime"],
        "commit": commit(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "instruction_set": ops.isa(),
        "threads": threads,
        "versions": versions(),
        **rows,
        "groups": groups(report),
    }


def save(results: dict[str, Any]) -> Path:
    """Write `bench/results/<machine>-<date>.json` and return its path."""
    path = RESULTS / f"{machine_name()}-{results['date']}.json"
    write_text(path, json.dumps(results, indent=1) + "\n")
    return path


def saved_results() -> list[Path]:
    """Return the saved results files of `python -m bench`, without those of other kinds such as `bench.gpu`'s."""
    paths = sorted(path for path in RESULTS.glob("*.json") if not path.name.startswith("latest"))
    return [path for path in paths if "kind" not in json.loads(path.read_text())]


def newest() -> Path:
    """Return the newest file of `saved_results`. Raises FileNotFoundError if there is none."""
    files = saved_results()
    if not files:
        raise FileNotFoundError(f"no results in {RESULTS}; `make bench` makes them")
    return max(files, key=lambda path: timestamp(json.loads(path.read_text())))


def timestamp(results: dict[str, Any]) -> str:
    """Return when results were measured, as an ISO string for sorting."""
    return str(results.get("time", results["date"]))
