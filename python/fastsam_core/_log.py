"""The package's logger, and messages that are worth saying once."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from functools import cache

logger = logging.getLogger("fastsam_core")


@cache
def warn_once(message: str) -> None:
    """Log `message` as a warning the first time it is given."""
    logger.warning(message)


def say(message: str) -> None:
    """Tell the user something they asked for: to the log where the application has set one up, else to stderr.

    As for a log's handlers, a stderr that is gone, as that of a closed terminal, is no error.
    """
    if logger.level == logging.NOTSET and not logger.isEnabledFor(logging.INFO):
        with suppress(OSError, ValueError):
            print(message, file=sys.stderr)
    else:
        logger.info(message)
