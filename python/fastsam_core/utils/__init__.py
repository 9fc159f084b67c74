"""What programs import from Ultralytics' `utils` to use its models, and errors that say what there is instead."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, NoReturn

from .. import ASSETS
from .._log import logger as LOGGER

__all__ = ["ASSETS", "DEFAULT_CFG", "LOGGER"]

# No options: those of the predictor that gets it. Subclasses of predictors have it as the default of `cfg`.
DEFAULT_CFG: MappingProxyType[str, Any] = MappingProxyType({})

_INSTEAD = {
    "ops": "Results, Boxes and Masks have coordinates in pixels of the image, in all forms",
    "plotting": "results[0].plot() draws boxes, masks and labels, results[0].save() writes the drawing",
    "SETTINGS": "the environment variable FASTSAM_HOME names the folder of checkpoints, project=... that of results",
    "checks": "fastsam doctor reports versions and devices",
}


def not_offered(name: str) -> NoReturn:
    """Raise ImportError for a module or an object of Ultralytics' `utils`; AttributeError for what Python looks for."""
    if name.split(".")[-1].startswith("__"):
        raise AttributeError(name)
    instead = _INSTEAD.get(name.split(".")[0])
    raise ImportError(f"utils.{name} isn't offered" + (f": {instead}" if instead else ""))


def __getattr__(name: str) -> NoReturn:
    if name in _INSTEAD:
        not_offered(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
