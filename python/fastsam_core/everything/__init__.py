"""Segment everything: prompt a grid of points, filter, and remove duplicates, as a pure function over `decode`."""

from .generate import count_batches, generate_masks

__all__ = ["count_batches", "generate_masks"]
