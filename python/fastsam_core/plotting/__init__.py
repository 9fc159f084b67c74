"""Drawing of results on images. Imported on first use, because it needs OpenCV and Pillow."""

from .drawing import Style, draw
from .output import SUFFIXES, default_suffix, encode_png, show_image, to_bgr, to_pil, write_image

__all__ = ["SUFFIXES", "Style", "default_suffix", "draw", "encode_png", "show_image", "to_bgr", "to_pil", "write_image"]
