"""Values beyond these are mistakes, which would cost hours or all memory, or which a library can't take."""

# Points per side of a grid: more are a number of pixels, or of all points.
MOST_POINTS = 2048
# Side of a network's input, in pixels: sixteen times what SAM was made for, with which one picture takes gigabytes.
MOST_PIXELS = 16384
# Of a drawn line, in pixels: what OpenCV takes.
WIDEST_LINE = 32767
