"""What Meta's package has in `segment_anything.utils` and tools import: transforms, masks and boxes, ONNX."""
