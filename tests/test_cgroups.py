"""Tests of the limits that Linux sets for containers, services and jobs, on files like those of Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastsam_core._cgroups import ControlGroups

VERSION_2 = "0::/system.slice/work.service\n"
SERVICE = "system.slice/work.service"
VERSION_1 = "9:memory:/docker/1\n8:cpu,cpuacct:/docker/1\n0::/\n"


def groups_of(folder: Path, own_groups: str | None, files: dict[str, dict[str, str]]) -> ControlGroups:
    """Write files by folder and name, and the file of the process's groups."""
    for group, contents in files.items():
        (folder / "mount" / group).mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            (folder / "mount" / group / name).write_text(text)
    if own_groups is not None:
        (folder / "cgroup").write_text(own_groups)
    return ControlGroups(folder / "mount", folder / "cgroup")


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
def test_lowest_processor_limit_of_the_groups_of_a_process(
    tmp_path: Path, own_groups: str | None, files: dict[str, dict[str, str]], limit: float | None
) -> None:
    assert groups_of(tmp_path, own_groups, files).processor_limit() == limit


@pytest.mark.parametrize(
    ("own_groups", "files", "limit"),
    [
        ("0::/\n", {"": {"memory.max": "1073741824\n"}}, 1 << 30),
        ("0::/\n", {"": {"memory.max": "max\n"}}, None),
        (VERSION_1, {"memory": {"memory.limit_in_bytes": "1073741824\n"}}, 1 << 30),
        (
            VERSION_2,
            {SERVICE: {"memory.max": "4096\n"}, "system.slice": {"memory.max": "max"}},
            4096,
        ),
        (
            VERSION_2,
            {SERVICE: {"memory.max": "8192\n"}, "system.slice": {"memory.max": "4096"}},
            4096,
        ),
        (VERSION_1, {"memory/docker/1": {"memory.limit_in_bytes": "4096\n"}}, 4096),
        (VERSION_1, {"cpu/docker/1": {"memory.limit_in_bytes": "4096\n"}}, None),
        (None, {}, None),
    ],
)
def test_lowest_memory_limit_of_the_groups_of_a_process(
    tmp_path: Path, own_groups: str | None, files: dict[str, dict[str, str]], limit: int | None
) -> None:
    assert groups_of(tmp_path, own_groups, files).memory_limit() == limit
