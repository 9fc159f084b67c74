"""The utilities of Meta's `segment_anything.utils` that tools import: transforms, masks and boxes, ONNX."""
