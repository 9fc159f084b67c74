"""The YOLOv8 family in plain PyTorch: detection and segmentation heads, sizes n to x; FastSAM is one of them.

`network` is the network, `weights` reads checkpoints, `letterbox` prepares images, `decode` and `masks` interpret the
network's output, and `runner` combines these for images.
"""

from .detector import YoloDetector

__all__ = ["YoloDetector"]
