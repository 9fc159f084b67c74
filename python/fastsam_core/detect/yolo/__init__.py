"""YOLOv8, YOLO11, YOLO12 and YOLO26 in plain PyTorch: detection and segmentation, sizes n to x.

FastSAM is a YOLOv8 network. `architecture` tells networks apart by their tensors, `network` is the network, `weights`
reads checkpoints, `letterbox` prepares images, `decode` and `masks` interpret the network's output, and `runner`
combines these for images.
"""

from .detector import YoloDetector

__all__ = ["YoloDetector"]
