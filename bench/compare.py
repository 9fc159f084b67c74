"""Compare results with the last committed ones of the same machine: `python -m bench.compare [results.json]`.

Without a file, the newest results of this tree are compared. If these are committed themselves, they are compared with
the run before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .summarise import ROOT, newest, timestamp

# Relative change below which two runs on one machine may differ by chance.
NOISE = 0.10
# Results are comparable only if they agree in all of these.
MACHINE = ("processor", "cores", "instruction_set", "threads")


def committed() -> list[dict[str, Any]]:
    """Return all results committed at HEAD, newest first. Outside a git clone there are none."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    try:
        paths = git("ls-tree", "--name-only", "HEAD", "bench/results/").split()
    except (OSError, subprocess.CalledProcessError):
        return []
    all_results = [json.loads(git("show", f"HEAD:{path}")) for path in paths if path.endswith(".json")]
    return sorted((results for results in all_results if "kind" not in results), key=timestamp, reverse=True)


def earlier_results(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return other committed results of the same machine, newest first."""
    of_machine = [other for other in committed() if all(other.get(key) == results.get(key) for key in MACHINE)]
    return [other for other in of_machine if other != results]


def figures(results: dict[str, Any]) -> dict[str, float]:
    """Return all compared figures by name: ratios of rows, and seconds and megabytes of everything else."""
    values = {f"{key} (ratio)": row["ratio"] for key, row in results.get("rows", {}).items()}
    for part in ("stages_s", "growth_s"):
        for work, seconds in results.get(part, {}).items():
            values |= {f"{work}: {name} (s)": value for name, value in seconds.items() if name != "records"}
    values |= {f"{work} (MB)": value for work, value in results.get("memory_mb", {}).items()}
    for group, members in results.get("groups", {}).items():
        values |= {f"{group}: {name} (s)": value["median_s"] for name, value in members.items()}
    return values


def report(older: dict[str, Any], newer: dict[str, Any]) -> str:
    """Return one line per figure: its relative change, marked if beyond `NOISE`, or that it is new or gone."""
    old, new = figures(older), figures(newer)
    lines = [f"{older['date']} {older.get('commit', '')} -> {newer['date']} {newer.get('commit', '')}".strip()]
    for name in new:
        if name not in old:
            lines.append(f"{'new':>9}    {name}: {new[name]:.4g}")
        elif old[name] > 0:
            change = new[name] / old[name] - 1
            mark = "  " if abs(change) <= NOISE else "!!" if change > 0 else "++"
            lines.append(f"{change:+8.1%} {mark} {name}: {old[name]:.4g} -> {new[name]:.4g}")
    lines += [f"{'gone':>9}    {name}" for name in old if name not in new]
    lines.append(f"!! slower, ++ faster by more than {NOISE:.0%}: measure again before you believe it")
    return "\n".join(lines)


if __name__ == "__main__":
    results = json.loads((Path(sys.argv[1]) if sys.argv[1:] else newest()).read_text())
    earlier = earlier_results(results)
    if not earlier:
        raise SystemExit("nothing to compare with: HEAD holds no other results of this machine")
    print(report(earlier[0], results))
