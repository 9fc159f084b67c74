"""Fully connected layers with what stands around them: LayerNorm before, an activation and a residual after."""
