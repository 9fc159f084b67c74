"""The summary that is logged at the end of a run."""

from __future__ import annotations

from collections import Counter

from .._log import format_count
from .manifest import History

_CLASSES = 20
_REASONS = 3


def summary(history: History, folder: str, now: int, seconds: float) -> str:
    """Return one line: files, objects by class, what was skipped and why, and the rate of this run's `now` images."""
    files = len(history.finished)
    text = f"{format_count(files, 'label file')} in {folder} ({_counts(history.classes)})"
    if history.empty and history.classes:
        text += f"; {history.empty} without objects"
    if history.failed:
        reasons = Counter(history.failed.values()).most_common()
        shown = ", ".join(f"{reason} ({count})" if count > 1 else reason for reason, count in reasons[:_REASONS])
        more = f" and {len(reasons) - _REASONS} more reasons" if len(reasons) > _REASONS else ""
        text += f"; {len(history.failed)} skipped: {shown}{more}"
    if now and seconds > 0:
        text += f"; {now / seconds:.2f} images/s"
    if now < files:
        text += f", {files - now} done before" if now else "; all done before"
    return text


def _counts(classes: Counter[tuple[int, str]]) -> str:
    counts: Counter[str] = Counter()
    for (_, name), count in classes.items():
        counts[name] += count
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = f", {len(shown) - _CLASSES} more classes" if len(shown) > _CLASSES else ""
    return (", ".join(f"{name} {count}" for name, count in shown[:_CLASSES]) or "no objects") + rest
