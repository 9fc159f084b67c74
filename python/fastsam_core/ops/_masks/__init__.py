"""Masks of a picture from low-resolution logits, and small regions of masks."""
