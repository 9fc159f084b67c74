"""The decoder's transformer under Meta's path."""

from ...models.mask_decoder import DecoderAttention as Attention
from ...models.mask_decoder import TwoWayBlock as TwoWayAttentionBlock
from ...models.mask_decoder import TwoWayTransformer

__all__ = ["Attention", "TwoWayAttentionBlock", "TwoWayTransformer"]
