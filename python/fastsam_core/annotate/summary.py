"""The summary that is logged at the end of a run."""

from __future__ import annotations

from collections import Counter

from .._log import format_count
from .manifest import History

_MAX_CLASSES = 20
_MAX_REASONS = 3


def summary(history: History, folder: str, num_labelled: int, seconds: float) -> str:
    """Return one line: files, objects by class, what was skipped and why, and the rate of this run.

    num_labelled, seconds: number of images that this run has labelled, and its duration.
    """
    num_files = len(history.finished)
    text = f"{format_count(num_files, 'label file')} in {folder} ({_class_counts(history.class_counts)})"
    if history.num_empty and history.class_counts:
        text += f"; {history.num_empty} without objects"
    if history.failed:
        reasons = Counter(history.failed.values()).most_common()
        shown = ", ".join(f"{reason} ({count})" if count > 1 else reason for reason, count in reasons[:_MAX_REASONS])
        rest = len(reasons) - _MAX_REASONS
        more = f" and {format_count(rest, 'more reason')}" if rest > 0 else ""
        text += f"; {len(history.failed)} skipped: {shown}{more}"
    if num_labelled and seconds > 0:
        text += f"; {num_labelled / seconds:.2f} images/s"
    if num_labelled < num_files:
        text += f", {num_files - num_labelled} done before" if num_labelled else "; all done before"
    return text


def _class_counts(class_counts: Counter[tuple[int, str]]) -> str:
    counts: Counter[str] = Counter()
    for (_, name), count in class_counts.items():
        counts[name] += count
    shown = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = len(shown) - _MAX_CLASSES
    more = f", {format_count(rest, 'more class', 'more classes')}" if rest > 0 else ""
    return (", ".join(f"{name} {count}" for name, count in shown[:_MAX_CLASSES]) or "no objects") + more
