"""Upper limits of option values. Larger values would take hours or all memory, or a library rejects them."""

# Points per side of a grid. A larger value is probably meant as pixels, or as the total number of points.
MAX_POINTS_PER_SIDE = 2048
# Side of a network's input in pixels: sixteen times that of SAM, where one image already takes gigabytes.
MAX_INPUT_SIDE = 16384
# Width of a drawn line in pixels: OpenCV's limit.
MAX_LINE_WIDTH = 32767
