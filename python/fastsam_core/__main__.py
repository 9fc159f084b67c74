"""Entry point of `python -m fastsam_core`, the same as the command `fastsam`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
