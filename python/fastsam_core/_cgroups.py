"""Limits of processor time that Linux sets for the container, service or job that this process runs in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


@cache
def processor_limit() -> float | None:
    """Return how many processors' time this process may use, or None without a limit. PyTorch doesn't look at it."""
    return find_processor_limit(_MOUNT, _OWN_GROUPS)


def find_processor_limit(mount: Path, own_groups: Path) -> float | None:
    """Return the lowest limit of the process's control group and those around it; None if none has a limit.

    mount: folder of the control groups, version 1 or 2. own_groups: file that names those of the process.
    """
    return min((limit for folder in _folders(mount, own_groups) for limit in _limits(folder)), default=None)


def _folders(mount: Path, own_groups: Path) -> Iterator[Path]:
    """Yield the folders of the groups. In a container, the root is usually the container's own group."""
    groups = {"": "/", "cpu": "/"}  # controller -> path below its root; version 2 has no controllers
    with suppress(OSError, ValueError):
        for line in own_groups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            groups |= {name: path for name in controllers.split(",") if name in groups}
    for controller, path in groups.items():
        folder = mount / controller
        yield folder
        for name in Path(path).parts[1:]:
            folder /= name
            yield folder


def _limits(folder: Path) -> Iterator[float]:
    with suppress(OSError, ValueError, ZeroDivisionError):  # version 2: "400000 100000", or "max 100000"
        quota, period = (folder / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
