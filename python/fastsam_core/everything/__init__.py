"""Segment everything: prompt with a grid of points, filter the masks and remove duplicates.

`generate_masks` is a pure function over a `decode` callable, so it can be tested without a network.
"""

from .generate import count_batches, generate_masks

__all__ = ["count_batches", "generate_masks"]
