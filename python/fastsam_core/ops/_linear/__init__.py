"""Fully connected layers fused with the operations around them: LayerNorm before, activation and residual after."""
