"""The package's logger, and functions that log a message once, report to the user, or count things in words."""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress
from functools import lru_cache

logger = logging.getLogger("fastsam_core")

# In an address such as rtsp://user:password@camera, which as a `Path` has only one slash.
_PASSWORD = re.compile(r"(?<=:/)(/?[^/@:\s]*):[^/\s]*(?=@)")


def hide_passwords(text: str) -> str:
    """Return `text` with `***` in place of the passwords in addresses."""
    return _PASSWORD.sub(r"\1:***", text)


class _PasswordFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if ":/" in message:
            record.msg, record.args = hide_passwords(message), ()
        return True


logger.addFilter(_PasswordFilter())


@lru_cache(maxsize=1024)  # bounded, since messages may hold paths and a server runs for months
def warn_once(message: str) -> None:
    """Log `message` as a warning, only the first time."""
    logger.warning(message)


def log_or_print(message: str) -> None:
    """Report something the user asked for: to the logger if the application configured it, else to stderr.

    A stderr that can't be written to, as of a closed terminal, is ignored, as log handlers do.
    """
    if logger.level == logging.NOTSET and not logger.isEnabledFor(logging.INFO):
        with suppress(OSError, ValueError):
            print(hide_passwords(message), file=sys.stderr)
    else:
        logger.info(message)


def format_count(number: int, noun: str, plural: str = "") -> str:
    """Return the number with its noun, as in "1 image" and "2 images". plural: if it isn't the noun and an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
