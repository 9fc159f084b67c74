"""The decoder's transformer under the import path of Meta's package."""

from ...models.mask_decoder import DecoderAttention as Attention
from ...models.mask_decoder import TwoWayBlock as TwoWayAttentionBlock
from ...models.mask_decoder import TwoWayTransformer

__all__ = ["Attention", "TwoWayAttentionBlock", "TwoWayTransformer"]
