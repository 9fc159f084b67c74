"""The mask decoder under Meta's path."""

from ...models.common import MLP
from ...models.mask_decoder import MaskDecoder

__all__ = ["MLP", "MaskDecoder"]
