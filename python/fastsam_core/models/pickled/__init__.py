"""Reader for checkpoints that pickle whole modules, which imports and calls nothing that they name.

`interpreter` interprets the pickle's opcodes as instructions for building plain data. `allowlist` defines which names
may occur and what each stands for. `archive` locates the tensors' bytes. `records` defines the resulting data types.
"""

from .archive import PickledFile, open_pickled
from .records import GlobalRef, Record, TensorRef

__all__ = ["GlobalRef", "PickledFile", "Record", "TensorRef", "open_pickled"]
