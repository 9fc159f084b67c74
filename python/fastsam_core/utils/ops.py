"""Not offered; importing anything from here says what there is instead."""

from __future__ import annotations

from typing import NoReturn

from . import not_offered


def __getattr__(name: str) -> NoReturn:
    not_offered(f"ops.{name}")
