"""CPU sibling of the residual sum: the reference itself.

C++ code would gain nothing over it, and on the CPU models call operations that fuse more (`linear`, `mlp`).
"""

from __future__ import annotations

from .reference import add_norm_into

__all__ = ["add_norm_into"]
