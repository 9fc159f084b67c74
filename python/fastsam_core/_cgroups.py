"""Limits that Linux sets for the container, service or job that this process runs in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def processor_limit() -> float | None:
    """Return how many processors' time this process may use, or None without a limit. PyTorch doesn't look at it."""
    return ControlGroups().processor_limit()


@cache
def memory_limit() -> int | None:
    """Return how many bytes of memory the processes of this one's group may use together, or None without a limit."""
    return ControlGroups().memory_limit()


class ControlGroups:
    """The control groups of this process and those around them, of version 1 or 2. The lowest limit counts.

    mount: folder of the control groups. own_groups: file that names those of the process.
    """

    def __init__(self, mount: Path = Path("/sys/fs/cgroup"), own_groups: Path = Path("/proc/self/cgroup")) -> None:
        self._mount, self._own_groups = mount, own_groups

    def processor_limit(self) -> float | None:
        """Return the limit in processors; None without one, or if there are no control groups."""
        return min(self._processor_limits(), default=None)

    def memory_limit(self) -> int | None:
        """Return the limit in bytes; None without one, or if there are no control groups."""
        return min(self._memory_limits(), default=None)

    def _processor_limits(self) -> Iterator[float]:
        for folder in self._folders("cpu"):
            with suppress(OSError, ValueError, ZeroDivisionError):  # version 2: "400000 100000", or "max 100000"
                quota, period = (folder / "cpu.max").read_text().split()
                if quota != "max":
                    yield int(quota) / int(period)
            with suppress(OSError, ValueError, ZeroDivisionError):
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                if int(quota) > 0:
                    yield int(quota) / int(period)

    def _memory_limits(self) -> Iterator[int]:
        for folder in self._folders("memory"):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with suppress(OSError, ValueError):  # "max" of version 2 is no number
                    yield int((folder / name).read_text())

    def _folders(self, controller: str) -> Iterator[Path]:
        """Yield the folders of the groups. In a container, the root is usually the container's own group."""
        paths = {"": "/", controller: "/"}  # below their roots; the groups of version 2 have no controllers
        with suppress(OSError, ValueError):
            for line in self._own_groups.read_text().splitlines():
                _, controllers, path = line.split(":", 2)
                paths |= {name: path for name in controllers.split(",") if name in paths}
        for name, path in paths.items():
            folder = self._mount / name
            yield folder
            for part in Path(path).parts[1:]:
                folder /= part
                yield folder
