"""Residual sum followed by LayerNorm."""
