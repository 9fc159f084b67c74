"""PyTorch's form: on the CPU it is as good as any, and models have operations that do more at once."""

from __future__ import annotations

from .reference import add_norm_into

__all__ = ["add_norm_into"]
