"""Peak memory of segment everything in addition to the loaded model, for a 6000 x 4000 photo, in a separate process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .photos import photo
from .recipe import CACHE, checkpoint
from .timing import RowCollector

WIDTH, HEIGHT = 6000, 4000
LIMIT_MB = 600

# Writing 5 to clear_refs resets VmHWM, the peak resident memory, after the model is loaded.
_SCRIPT = """
import sys, torch
from fastsam_core import SAM
checkpoint, path, stride, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
sam = SAM(checkpoint)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
sam(path, points_stride=stride, conf_thres=-0.17, conf=-1e9, verbose=False)
print("peak", status("VmHWM") - before)
"""


def photo_file() -> Path:
    path = CACHE / f"photo-{WIDTH}x{HEIGHT}.jpg"
    if not path.exists():
        import cv2

        CACHE.mkdir(exist_ok=True)
        cv2.imwrite(str(path), photo(WIDTH, HEIGHT))
    return path


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("name", ["mobile_sam", "sam_b"])
def test_peak_memory(rows: RowCollector, request: pytest.FixtureRequest, name: str) -> None:
    # Memory peaks within a batch of 64 points, so more points would only take longer.
    stride = 32 if rows.full else 8
    threads = str(request.config.getoption("--bench-threads"))
    command = [sys.executable, "-c", _SCRIPT, str(checkpoint(name)), str(photo_file()), str(stride), threads]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    peak = float(process.stdout.split()[-1])
    rows.memory_mb[f"{name} everything, {stride**2:,} points, {WIDTH} x {HEIGHT}"] = round(peak, 1)
    print(f"\n{name}: {peak:.0f} MB above the loaded model (promised: under {LIMIT_MB})")
