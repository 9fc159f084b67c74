"""Tests of the processor limits that Linux sets for containers, services and jobs, on files like those of Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastsam_core._cgroups import find_processor_limit

VERSION_2 = "0::/system.slice/work.service\n"
VERSION_1 = "9:memory:/docker/1\n8:cpu,cpuacct:/docker/1\n0::/\n"


def v1(quota: int) -> dict[str, str]:
    return {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("own_groups", "files", "limit"),
    [
        # In a container: its group is the root.
        ("0::/\n", {"": {"cpu.max": "250000 100000\n"}}, 2.5),
        (None, {"": {"cpu.max": "250000 100000\n"}}, 2.5),
        ("0::/\n", {"": {"cpu.max": "max 100000\n"}}, None),
        (VERSION_1, {"cpu": v1(400_000)}, 4.0),
        (VERSION_1, {"cpu": v1(-1)}, None),
        # In a service or job: a group below the root. The lowest limit counts.
        (VERSION_2, {"system.slice/work.service": {"cpu.max": "50000 100000\n"}}, 0.5),
        (VERSION_2, {"system.slice": {"cpu.max": "300000 100000\n"}}, 3.0),
        (
            VERSION_2,
            {"system.slice": {"cpu.max": "300000 100000\n"}, "system.slice/work.service": {"cpu.max": "max 100000\n"}},
            3.0,
        ),
        (VERSION_2, {"system.slice/other.service": {"cpu.max": "100000 100000\n"}}, None),
        (VERSION_1, {"cpu": v1(-1), "cpu/docker/1": v1(150_000)}, 1.5),
        (VERSION_1, {"cpu/docker": v1(100_000), "cpu/docker/1": v1(150_000)}, 1.0),
        # Nothing that can be read.
        ("0::/\n", {"": {"cpu.max": "something else\n"}}, None),
        ("something else\n", {"": {"cpu.max": "100000 0\n"}}, None),
        (None, {}, None),
    ],
)
def test_lowest_limit_of_the_groups_of_a_process(
    tmp_path: Path, own_groups: str | None, files: dict[str, dict[str, str]], limit: float | None
) -> None:
    for folder, contents in files.items():
        (tmp_path / "mount" / folder).mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (tmp_path / "mount" / folder / name).write_text(text)
    if own_groups is not None:
        (tmp_path / "cgroup").write_text(own_groups)
    assert find_processor_limit(tmp_path / "mount", tmp_path / "cgroup") == limit
