"""A residual sum and the LayerNorm that follows it."""
