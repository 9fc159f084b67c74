"""Sources: everything that images can come from, as one iterable of named BGR arrays."""

from .decode import decode_image, read_image
from .item import Item, Source
from .load import load_sources
from .paths import IMAGE_SUFFIXES, VIDEO_SUFFIXES

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "Item", "Source", "decode_image", "load_sources", "read_image"]
