"""Shards, the parts of the images that processes label: from `shard="i/n"`, torchrun or SLURM."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`. The hash of an image's relative path decides which shard it belongs to."""

    index: int
    count: int

    def __contains__(self, key: object) -> bool:
        return self.count == 1 or (isinstance(key, str) and stable_hash(key) % self.count == self.index)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


UNSHARDED = Shard(0, 1)


def stable_hash(key: str) -> int:
    """Return a 64-bit hash that depends on the text alone: the same in every process, machine and release."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")


def parse_shard(shard: Any, environment: Mapping[str, str] | None = None) -> Shard:
    """Return the shard that `shard` names: "i/n" or (i, n), i from 0 to n - 1. None takes it from the environment.

    TypeError and ValueError for anything else.
    """
    if shard is None:
        return from_environment(os.environ if environment is None else environment)
    accepted = 'accepted: "i/n" with i from 0 to n - 1, such as "0/8" for the first of eight'
    if isinstance(shard, str):
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", shard, re.ASCII)
        if match is None:
            raise ValueError(f"shard={shard!r}; {accepted}")
        index, count = int(match[1]), int(match[2])
    elif isinstance(shard, (tuple, list)) and len(shard) == 2 and all(type(part) is int for part in shard):
        index, count = shard
    else:
        raise TypeError(f"shard={shard!r} ({type(shard).__name__}); {accepted}")
    if count < 1 or not 0 <= index < count:
        raise ValueError(f"shard={shard!r}: shard {index} of {count} is out of range; {accepted}")
    return Shard(index, count)


def from_environment(environment: Mapping[str, str]) -> Shard:
    """Return the shard of a torchrun worker or of a task started by srun; without these, all images.

    A SLURM job array is not taken for shards, since each element may have a folder of its own: pass `shard` there.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _shard_from_variables(environment, "RANK", "WORLD_SIZE")
    if "SLURM_PROCID" not in environment:
        return UNSHARDED
    if "SLURM_STEP_NUM_TASKS" in environment:
        return _shard_from_variables(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    # A batch script itself runs once, however many tasks its job has been given.
    is_batch_script = environment.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in environment
    if "SLURM_NTASKS" in environment and not is_batch_script:
        return _shard_from_variables(environment, "SLURM_PROCID", "SLURM_NTASKS")
    return UNSHARDED


def local_rank(environment: Mapping[str, str]) -> int | None:
    """Return this process's index among those on this machine, by which it picks a GPU; None without a launcher."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return None


def _shard_from_variables(environment: Mapping[str, str], index_variable: str, count_variable: str) -> Shard:
    try:
        return parse_shard((int(environment[index_variable]), int(environment[count_variable])))
    except ValueError as error:
        raise ValueError(
            f"{index_variable}={environment[index_variable]} and {count_variable}={environment[count_variable]} "
            f'in the environment are not a valid shard ({error}); shard="0/1" labels all images'
        ) from None
