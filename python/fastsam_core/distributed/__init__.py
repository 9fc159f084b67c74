"""Annotation on a cluster: `annotate_ray` (needs `pip install 'fastsam_core[ray]'`).

torchrun and SLURM need nothing from here: `auto_annotate(..., shard=...)` divides the images by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ray_run import annotate_ray

__all__ = ["annotate_ray"]


def __getattr__(name: str) -> Any:
    if name != "annotate_ray":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .ray_run import annotate_ray

    globals()[name] = annotate_ray
    return annotate_ray
