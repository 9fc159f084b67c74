"""Tests the line that is logged at the end of an annotation run."""

from __future__ import annotations

from collections import Counter

from fastsam_core.annotate.manifest import History
from fastsam_core.annotate.summary import summary


def history(num_finished: int = 4, num_empty: int = 0, failed: list[str] | None = None, **classes: int) -> History:
    return History(
        finished={f"{number}.jpg" for number in range(num_finished)},
        failed={f"bad{number}.jpg": reason for number, reason in enumerate(failed or [])},
        class_counts=Counter({(number, name): count for number, (name, count) in enumerate(classes.items())}),
        num_empty=num_empty,
    )


def test_classes_are_listed_by_falling_count_then_name() -> None:
    assert summary(history(fork=1, cup=3, dish=1), "out", 4, 8) == (
        "4 label files in out (cup 3, dish 1, fork 1); 0.50 images/s"
    )


def test_class_ids_of_one_name_are_added_up() -> None:
    found = history(cup=3, dish=4)
    found.class_counts[9, "cup"] = 2
    assert "(cup 5, dish 4)" in summary(found, "out", 4, 8)


def test_twenty_classes_are_named() -> None:
    for count, more in ((20, ""), (21, ", 1 more class"), (22, ", 2 more classes")):
        names = [f"kind{number:02}" for number in range(count)]
        named = ", ".join(f"{name} 1" for name in names[:20])
        assert f"({named}{more})" in summary(history(**dict.fromkeys(names, 1)), "out", 4, 8)


def test_images_without_objects_are_counted_if_others_have_some() -> None:
    assert summary(history(num_empty=3, cup=1), "out", 4, 4) == (
        "4 label files in out (cup 1); 3 without objects; 1.00 images/s"
    )
    assert summary(history(num_empty=4), "out", 4, 4) == "4 label files in out (no objects); 1.00 images/s"


def test_three_most_frequent_reasons_are_named() -> None:
    reasons = ["damaged", "empty", "damaged", "too large", "of an unknown format", "not a video"]
    said = summary(history(1, failed=reasons, cup=1), "out", 1, 0.25)
    assert said == (
        "1 label file in out (cup 1); 6 skipped: damaged (2), empty, too large and 2 more reasons; 4.00 images/s"
    )
    assert "c and 1 more reason; " in summary(history(failed=["a", "b", "c", "d"], cup=1), "out", 4, 8)
    assert "; 1 skipped: damaged; " in summary(history(failed=["damaged"], cup=1), "out", 4, 8)
    assert "; 3 skipped: a, b, c; " in summary(history(failed=["a", "b", "c"], cup=1), "out", 4, 8)


def test_images_of_earlier_runs_are_told_apart() -> None:
    assert summary(history(cup=1), "out", 1, 2).endswith("(cup 1); 0.50 images/s, 3 done before")
    assert summary(history(cup=1), "out", 0, 2).endswith("(cup 1); all done before")
    assert summary(history(cup=1), "out", 4, 0).endswith("(cup 1)"), "no time passed: there is no rate"
    assert summary(history(0), "out", 0, 2) == "0 label files in out (no objects)"
