"""Checkpoints that pickle whole modules, read without importing or calling anything that they name.

`machine` interprets the pickle's opcodes as instructions for building plain data, `names` says which names may stand in
it and what each stands for, `archive` finds the tensors' bytes, `records` are what comes out.
"""

from .archive import PickledFile, open_pickled
from .records import Name, Record, TensorRef

__all__ = ["Name", "PickledFile", "Record", "TensorRef", "open_pickled"]
