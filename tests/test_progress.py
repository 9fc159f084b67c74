"""Where progress bars are shown, and that work goes on where they can't be."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastsam_core._progress import progress_bar
from image_examples import write


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_text(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, show: bool | None) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress_bar([1, 2, 3], unit="image", desc="work", show=show)) == [1, 2, 3]
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stream", "show", "expected"),
    [
        (Terminal, None, True),
        (Terminal, False, False),
        (Terminal, True, True),
        (io.StringIO, None, False),
        (io.StringIO, True, True),
    ],
)
def test_bar_is_shown_on_a_terminal_or_on_request(
    stream: type[io.StringIO], show: bool | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown_text(stream(), monkeypatch, show)
    assert ("work" in text and "3/3" in text and "image" in text) == expected
    assert bool(text) == expected


@pytest.mark.parametrize("kernel", [True, False])
def test_bar_is_shown_in_a_notebook(kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(config={"IPKernelApp": {}} if kernel else {})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert bool(shown_text(io.StringIO(), monkeypatch, None)) == kernel


@pytest.mark.parametrize("show", [None, True])
def test_work_goes_on_without_stderr(show: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress_bar([1, 2, 3], unit="image", show=show)) == [1, 2, 3]
    with progress_bar(total=3, unit="image", show=show) as bar:
        bar.update(3)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert list(progress_bar([1, 2, 3], unit="image")) == [1, 2, 3]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_program_works_with_closed_stdout_and_stderr(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / "images" / name)
    command = [
        sys.executable,
        "-m",
        "fastsam_core",
        "predict",
        "source=images",
        "points_stride=1",
        f"project={tmp_path}",
    ]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *command], cwd=tmp_path)
    assert done.returncode == 0
    assert sorted(path.name for path in (tmp_path / "predict").iterdir()) == ["a.jpg", "b.jpg"]
