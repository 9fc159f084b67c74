"""Tests the scripts that make the tables of benchmark results and compare two runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bench import compare, gpu_table, summarise, table
from bench.rows import ROWS, MeasuredRow

KEY = "click/transformers"


def results(**changed: Any) -> dict[str, Any]:
    row = MeasuredRow(KEY, 0.02, 0.2, 0.1, 5, 0.0, 1e-4, "share of pixels that differ", "a note")
    made = {
        "date": "2026-01-02",
        "commit": "abc",
        "processor": "Some CPU",
        "cores": 2,
        "instruction_set": "avx2",
        "threads": 2,
        "versions": {"fastsam_core": "0", "torch": "2"},
        "rows": {KEY: row.as_dict()},
        "stages_s": {"sam_b": {"encode": 6.5, "all": 20.25, "records": 3}},
        "memory_mb": {"sam_b": 512.3},
        "growth_s": {"NMS": {"10": 0.001}},
        "groups": {"g": {"test": {"median_s": 0.5, "ratio": 1.0}}},
    }
    return made | changed


def on_gpu() -> dict[str, Any]:
    row = {"group": "nms", "name": "ours", "status": "ok", "ms": 0.5, "first_ms": 1500.0, "note": "ten boxes"}
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "device": "Some GPU",
        "dtype": "bfloat16",
        "versions": {"torch": "2"},
        "ceilings": {"tflops": 800.0, "gb_per_s": 4000.0},
        "checks": [{"status": "ok"}, {"status": "wrong"}],
        "rows": [row, row | {"name": "broken", "status": "failed"}, row | {"name": "ours, first_pass"}],
    }


def test_gpu_table_has_a_line_per_measured_row() -> None:
    text = gpu_table.table(on_gpu())
    assert "Some GPU, bfloat16" in text and "1 of 2 checks passed" in text
    assert text.splitlines()[-1] == "| nms: ours (ten boxes) | 0.5 ms |  |  | 1,500 ms |  |"
    of_calls = on_gpu()
    of_calls["rows"] = [{**row, "call_ms": 0.7} for row in of_calls["rows"]]
    assert (
        gpu_table.table(of_calls).splitlines()[-1] == "| nms: ours (ten boxes) | 0.5 ms | 0.7 ms |  |  | 1,500 ms |  |"
    )


def test_gpu_headlines_leave_out_other_rows() -> None:
    row = {"group": "encoder", "name": "ours, ViT-B", "status": "ok", "ms": 2.5, "peak_mib": 1234.5}
    text = gpu_table.headlines({**on_gpu(), "rows": [*on_gpu()["rows"], row]})
    assert text.splitlines()[0] == "Some GPU, bfloat16, torch 2:"
    assert text.splitlines()[-1] == "| encoder: ours, ViT-B | 2.5 ms | 1,234 MiB |" and "nms" not in text


def test_pages_show_stored_results() -> None:
    """README and docs equal the tables of one of the stored results, not necessarily of the newest."""
    kept = [json.loads(path.read_text()) for path in summarise.saved_results()]
    made = [table.pages(results, gpu_table.newest()) for results in kept]
    assert any(all(path.read_text(encoding="utf-8") == text for path, text in pages.items()) for pages in made)


def test_keys_of_rows_are_unique() -> None:
    assert len({row.key for row in ROWS}) == len(ROWS)


def test_table_of_results() -> None:
    text = table.table(results())
    assert (
        "| one click after `set_image`, to a full-size mask (a note) | 20 ms | transformers: 200 ms | 0.10 x |" in text
    )
    assert "| sam_b | 6.50 s | 20.2 s | 3 |" in text
    assert "sam_b: 512 MB" in text and "NMS: 10: 1 ms" in text


def test_headlines_leave_out_other_rows() -> None:
    text = table.headlines(results())
    assert text.splitlines()[0].startswith("Some CPU, 2 cores, avx2, 2 threads on each side")
    line = "| one click after `set_image`, to a full-size mask | 20 ms | transformers: 200 ms | 0.10 x |"
    assert text.splitlines()[-1] == line
    other = MeasuredRow("rle_decode/pycocotools", 0.02, 0.2, 0.1, 5, 0.0, 0.0, "masks").as_dict()
    rows = {"rle_decode/pycocotools": other}
    assert "RLE" in table.table(results(rows=rows)) and "RLE" not in table.headlines(results(rows=rows))


def test_verdicts_name_missed_targets() -> None:
    slow = results()["rows"][KEY] | {"ratio": 0.21}
    assert "MISSED" in table.verdicts(results(rows={KEY: slow}))
    assert "MISSED" not in table.verdicts(results())


def test_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="benchmarks: begin"):
        table.replace_tables("no table here", "", "")
    with pytest.raises(ValueError, match="gpu: begin"):
        table.replace_tables(f"{table.BEGIN}{table.END}", "", "")


def test_comparison_marks_changes_above_noise() -> None:
    after = results(memory_mb={"sam_b": 600.0}, growth_s={"NMS": {"10": 0.00105}}, groups={})
    lines = compare.report(results(), after).splitlines()
    assert any("!!" in line and "sam_b (MB)" in line for line in lines)
    assert any("+5.0%" in line and "!!" not in line for line in lines)
    assert any(line.strip().startswith("gone") for line in lines)


def test_results_of_other_machines_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    now, own, other = results(), results(date="2026-01-01"), results(instruction_set="avx512")
    monkeypatch.setattr(compare, "committed", lambda: [other, now, own])
    assert compare.earlier_results(now) == [own]


def test_machine_name_is_a_valid_file_name() -> None:
    assert set(summarise.machine_name()) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
