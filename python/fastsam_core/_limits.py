"""Values beyond these are mistakes that would cost hours or all memory."""

# Points per side of a grid: more are a number of pixels, or of all points.
MOST_POINTS = 2048
# Side of a network's input, in pixels: sixteen times what SAM was made for, with which one picture takes gigabytes.
MOST_PIXELS = 16384
