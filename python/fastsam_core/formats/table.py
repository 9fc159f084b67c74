"""Results as rows: plain dicts, a data frame, CSV or JSON text."""

from __future__ import annotations

import csv
import importlib
import io
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..results import Results


def summary(results: Results, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
    """Return one dict per object: name, class, confidence, box; track_id if tracked, segments if there are masks.

    Coordinates are pixels, or fractions of width and height with `normalize`; numbers are rounded to `decimals`.
    """
    height, width = results.orig_shape if normalize else (1, 1)
    ids = results.boxes.id if results.boxes is not None else None
    polygons = results.masks.xy if results.masks is not None else None
    rows = []
    for i, (x1, y1, x2, y2, confidence, class_id) in enumerate(results.rows().tolist()):
        row: dict[str, Any] = {
            "name": results.name_of(class_id),
            "class": int(class_id),
            "confidence": round(confidence, decimals),
            "box": {
                "x1": round(x1 / width, decimals),
                "y1": round(y1 / height, decimals),
                "x2": round(x2 / width, decimals),
                "y2": round(y2 / height, decimals),
            },
        }
        if ids is not None:
            row["track_id"] = int(ids[i])
        if polygons is not None:
            row["segments"] = {
                "x": [round(x / width, decimals) for x in polygons[i][:, 0].tolist()],
                "y": [round(y / height, decimals) for y in polygons[i][:, 1].tolist()],
            }
        rows.append(row)
    return rows


def data_frame(rows: list[dict[str, Any]]) -> Any:
    """Return a polars DataFrame, or a pandas one if polars is missing; ImportError if both are."""
    for library in ("polars", "pandas"):
        try:
            module = importlib.import_module(library)
        except ImportError:
            continue
        return module.DataFrame(rows)
    raise ImportError("to_df() needs polars or pandas: pip install polars. to_csv(), to_json(), summary() need neither")


def csv_text(rows: list[dict[str, Any]]) -> str:
    """Return CSV with a header; `box` and `segments` are JSON within their cells. Without rows the text is empty."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: json.dumps(cell) if isinstance(cell, dict) else cell for key, cell in row.items()})
    return text.getvalue()


def json_text(rows: list[dict[str, Any]]) -> str:
    """Return an indented JSON list."""
    return json.dumps(rows, indent=2, ensure_ascii=False)
