"""Generate the tables of results from results files.

`python -m bench.table` prints them; with `--write` it updates README.md (headline rows) and docs/benchmarks.md (all
rows). A test checks that both files are up to date, so don't edit the tables by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastsam_core._files import write_text

from . import gpu_table
from .rows import ROWS
from .summarise import ROOT, newest

README, BENCHMARKS = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def seconds(value: float) -> str:
    """Format seconds with about three significant digits, as s or ms."""
    if value >= 1:
        return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms"


def table(results: dict[str, Any]) -> str:
    """Return Markdown of all results: machine and versions, ratios to peers, seconds per stage, peak memory, growth."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if name != "fastsam_core")
    lines = [
        f"Measured on {results['date']} at commit `{results.get('commit', 'unknown')}`: {_machine(results)} on each "
        f"side, float32 where no other type is named, outputs compared in the same run. {versions}.",
    ]
    lines += _ratios(results)
    lines += _stages(results.get("stages_s", {}))
    for work, megabytes in results.get("memory_mb", {}).items():
        lines += ["", f"Peak memory above the loaded model, {work}: {megabytes:.0f} MB."]
    for work, growth in results.get("growth_s", {}).items():
        steps = ", ".join(f"{size}: {seconds(stage_seconds)}" for size, stage_seconds in growth.items())
        lines += ["", f"{work}: {steps}."]
    return "\n".join(lines)


def headlines(results: dict[str, Any]) -> str:
    """Return Markdown of the headline rows."""
    return "\n".join(
        [f"{_machine(results)} on each side, float32 where no other type is named:", *_ratios(results, True)]
    )


def _machine(results: dict[str, Any]) -> str:
    cores = results.get("cores", "?")
    return f"{results['processor']}, {cores} cores, {results['instruction_set']}, {results['threads']} threads"


def _ratios(results: dict[str, Any], headline: bool = False) -> list[str]:
    measured = results.get("rows", {})
    rows = [
        f"| {spec.work}{_note(measured[spec.key], headline)} | {seconds(measured[spec.key]['ours_s'])} "
        f"| {spec.peer}: {seconds(measured[spec.key]['peer_s'])} | {measured[spec.key]['ratio']:.2f} x |"
        for spec in ROWS
        if spec.key in measured and (spec.headline or not headline)
    ]
    return ["", "| work | this package | peer | ratio |", "| --- | --- | --- | --- |", *rows] if rows else []


def _note(row: dict[str, Any], headline: bool) -> str:
    return f" ({row['note']})" if row["note"] and not headline else ""


def _stages(stages: dict[str, dict[str, float]]) -> list[str]:
    if not stages:
        return []
    names = list(next(iter(stages.values())))
    lines = [
        "",
        f"| segment everything, recipe weights | {' | '.join(names)} |",
        f"| --- |{' --- |' * len(names)}",
    ]
    for work, stage_seconds in stages.items():
        values = (f"{stage_seconds[name]:,}" if name == "records" else seconds(stage_seconds[name]) for name in names)
        lines.append(f"| {work} | {' | '.join(values)} |")
    return lines


def verdicts(results: dict[str, Any]) -> str:
    """Return text for the terminal: each row's ratio and whether it meets the promised limit."""
    lines = []
    for spec in ROWS:
        row = results.get("rows", {}).get(spec.key)
        if row is None:
            lines.append(f"{'-':>9}  {spec.work} / {spec.peer}: not measured")
            continue
        promise = (
            "" if spec.limit is None else f"  limit {spec.limit:.2f} {'ok' if row['ratio'] <= spec.limit else 'MISSED'}"
        )
        lines.append(f"{row['ratio']:7.3f} x  {spec.work} / {spec.peer}{promise}")
    return "\n".join(lines)


def replace_tables(page: str, on_cpu: str, on_gpu: str) -> str:
    """Return `page` with the texts between both pairs of markers replaced. Raises ValueError if a marker is missing."""
    for first, last, text in ((BEGIN, END, on_cpu), (gpu_table.BEGIN, gpu_table.END, on_gpu)):
        before, begin, rest = page.partition(first)
        _, end, after = rest.partition(last)
        if not begin or not end:
            raise ValueError(f"there is no {first} ... {last} in it")
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def pages(results: dict[str, Any], on_gpu: dict[str, Any]) -> dict[Path, str]:
    """Return the new contents of README.md and docs/benchmarks.md, with tables from these results."""
    tables = {
        README: (headlines(results), gpu_table.headlines(on_gpu)),
        BENCHMARKS: (table(results), gpu_table.table(on_gpu)),
    }
    return {path: replace_tables(path.read_text(encoding="utf-8"), *texts) for path, texts in tables.items()}


if __name__ == "__main__":
    newest_results, newest_on_gpu = json.loads(newest().read_text()), gpu_table.newest()
    if sys.argv[1:] == ["--write"]:
        for path, text in pages(newest_results, newest_on_gpu).items():
            write_text(path, text)
    elif sys.argv[1:]:
        raise SystemExit(__doc__)
    else:
        print(table(newest_results), gpu_table.table(newest_on_gpu), sep="\n\n")
