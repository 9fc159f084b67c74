"""Annotation on a cluster: `annotate_ray` (needs `pip install 'fastsam_core[ray]'`).

torchrun and SLURM need nothing from here: with `shard`, `auto_annotate` divides the images itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .ray_run import annotate_ray

__all__ = ["annotate_ray"]

__getattr__, __dir__ = lazy(__name__, {"annotate_ray": "ray_run"})
