"""Drawing of results on images. Imported on first use, because it needs OpenCV and Pillow."""

from .drawing import Style, draw
from .output import SUFFIXES, png, show_image, to_bgr, to_pil, usual_suffix, write_image

__all__ = ["SUFFIXES", "Style", "draw", "png", "show_image", "to_bgr", "to_pil", "usual_suffix", "write_image"]
