"""The tables of results, from results files: `python -m bench.table` prints them, `--write` puts them into README.md.

They are never typed: a test compares the README with what stands here.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from fastsam_core._files import write_text

from . import gpu_table
from .rows import ROWS
from .summarise import ROOT, newest

README = ROOT / "README.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def seconds(value: float) -> str:
    """Three digits, with a unit that keeps them readable."""
    if value >= 1:
        return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s"
    return f"{value * 1e3:.3g} ms"


def table(results: dict[str, Any]) -> str:
    """Markdown: what was measured where, ratios to peers, seconds per stage, peak memory."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if name != "fastsam_core")
    lines = [
        f"Measured on {results['date']} at commit `{results.get('commit', 'unknown')}`: {results['processor']}, "
        f"{results.get('cores', '?')} cores, {results['instruction_set']}, {results['threads']} threads on each side, "
        f"float32 where no other type is named, outputs compared in the same run. {versions}.",
    ]
    measured = results.get("rows", {})
    if measured:
        lines += ["", "| work | this package | peer | ratio |", "| --- | --- | --- | --- |"]
    for spec in ROWS:
        row = measured.get(spec.key)
        if row is None:
            continue
        note = f" ({row['note']})" if row["note"] else ""
        lines.append(
            f"| {spec.work}{note} | {seconds(row['ours_s'])} | {spec.peer}: {seconds(row['peer_s'])} "
            f"| {row['ratio']:.2f} x |"
        )
    lines += _stages(results.get("stages_s", {}))
    for work, megabytes in results.get("memory_mb", {}).items():
        lines += ["", f"Peak memory above the loaded model, {work}: {megabytes:.0f} MB."]
    for work, growth in results.get("growth_s", {}).items():
        steps = ", ".join(f"{size}: {seconds(spent)}" for size, spent in growth.items())
        lines += ["", f"{work}: {steps}."]
    return "\n".join(lines)


def _stages(stages: dict[str, dict[str, float]]) -> list[str]:
    if not stages:
        return []
    names = list(next(iter(stages.values())))
    lines = [
        "",
        f"| segment everything, recipe weights | {' | '.join(names)} |",
        f"| --- |{' --- |' * len(names)}",
    ]
    for work, spent in stages.items():
        values = (f"{spent[name]:,}" if name == "records" else seconds(spent[name]) for name in names)
        lines.append(f"| {work} | {' | '.join(values)} |")
    return lines


def verdicts(results: dict[str, Any]) -> str:
    """For the terminal: each row's ratio beside the promised one."""
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


def with_table(readme: str, results: dict[str, Any], on_gpu: dict[str, Any]) -> str:
    """`readme` with the text between the markers replaced. ValueError without the markers."""
    for first, last, text in ((BEGIN, END, table(results)), (gpu_table.BEGIN, gpu_table.END, gpu_table.table(on_gpu))):
        before, begin, rest = readme.partition(first)
        _, end, after = rest.partition(last)
        if not begin or not end:
            raise ValueError(f"README.md has no {first} ... {last}")
        readme = f"{before}{begin}\n{text}\n{end}{after}"
    return readme


if __name__ == "__main__":
    newest_results, newest_on_gpu = json.loads(newest().read_text()), gpu_table.newest()
    if sys.argv[1:] == ["--write"]:
        write_text(README, with_table(README.read_text(), newest_results, newest_on_gpu))
    elif sys.argv[1:]:
        raise SystemExit(__doc__)
    else:
        print(table(newest_results), gpu_table.table(newest_on_gpu), sep="\n\n")
