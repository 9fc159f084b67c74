"""Tests shards of the images: spellings, environment variables, GPUs, and a hash that must never change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsam_core.annotate import AnnotateConfig, run
from fastsam_core.annotate.run import local_gpu
from fastsam_core.annotate.shards import UNSHARDED, Shard, from_environment, local_rank, parse_shard, stable_hash


@pytest.mark.parametrize("given_as", ["2/8", " 2 / 8 ", (2, 8), [2, 8]])
def test_spellings_of_a_shard(given_as: Any) -> None:
    assert parse_shard(given_as) == Shard(2, 8)
    assert str(parse_shard(given_as)) == "2/8"


@pytest.mark.parametrize(
    ("given_as", "error", "said"),
    [
        ("8/8", ValueError, "out of range"),
        ("0/0", ValueError, "shard 0 of 0 is out of range"),
        ("-1/4", ValueError, '"0/8" for the first of eight'),
        ("1", ValueError, "shard='1'"),
        ("a/b", ValueError, "accepted"),
        (3, TypeError, "int"),
        ((1.0, 2), TypeError, "accepted"),
        ((True, 2), TypeError, "accepted"),
    ],
)
def test_wrong_shards_are_refused(given_as: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=re.escape(said)):
        parse_shard(given_as)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, UNSHARDED),
        ({"RANK": "3", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "9"}, Shard(3, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, UNSHARDED),
        ({"RANK": "3"}, UNSHARDED),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}, Shard(1, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2"}, Shard(1, 2)),
        ({"SLURM_NTASKS": "4"}, UNSHARDED),
        # A batch script that starts Python without srun: one process for all tasks.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "ENVIRONMENT": "BATCH"}, UNSHARDED),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "ENVIRONMENT": "BATCH", "SLURM_STEP_ID": "0"}, Shard(2, 4)),
        # Elements of a job array are no shards: they may process different folders.
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "5"}, UNSHARDED),
    ],
)
def test_shard_from_environment(environment: dict[str, str], expected: Shard) -> None:
    assert from_environment(environment) == expected
    assert parse_shard(None, environment) == expected
    assert parse_shard("0/1", environment) == UNSHARDED


@pytest.mark.parametrize("environment", [{"RANK": "4", "WORLD_SIZE": "4"}, {"SLURM_PROCID": "x", "SLURM_NTASKS": "4"}])
def test_wrong_environment_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r'in the environment.*shard="0/1"'):
        from_environment(environment)


def test_local_rank_from_environment() -> None:
    assert local_rank({"LOCAL_RANK": "2"}) == 2
    assert local_rank({"SLURM_LOCALID": "1"}) == 1
    assert local_rank({}) is local_rank({"LOCAL_RANK": "²"}) is None


@pytest.mark.parametrize(
    ("rank", "gpus", "expected"),
    [
        ("0", 4, "cuda:0"),
        ("3", 4, "cuda:3"),
        ("5", 4, "cuda:1"),
        ("1", 2, "cuda:1"),
        ("1", 1, ""),
        ("", 4, ""),
        ("1", 0, ""),
    ],
)
def test_processes_of_a_machine_share_its_gpus(
    monkeypatch: pytest.MonkeyPatch, rank: str, gpus: int, expected: str
) -> None:
    monkeypatch.delenv("SLURM_LOCALID", raising=False)
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert local_gpu() == expected


def test_gpu_of_a_process_is_taken_unless_a_device_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[Any] = []

    def annotator(config: AnnotateConfig) -> None:
        devices.append(config.device)
        raise InterruptedError

    monkeypatch.setattr(run, "local_gpu", lambda: "cuda:1")
    monkeypatch.setattr(run, "Annotator", annotator)
    (tmp_path / "a.jpg").touch()
    for device in ("", None, "cpu", 0):
        with pytest.raises(InterruptedError):
            run.auto_annotate(tmp_path, None, device=device)
    assert devices == ["cuda:1", "cuda:1", "cpu", 0]


def test_stable_hash_has_recorded_values() -> None:
    """Recorded values: another hash would distribute a half-finished data set differently."""
    assert stable_hash("a/b.jpg") == 0x67ED673B4D9FCCAE
    assert stable_hash("\udcff.jpg") == stable_hash(b"\xff.jpg".decode("utf-8", "surrogateescape"))


@given(st.lists(st.text(max_size=30), max_size=50), st.integers(1, 7))
def test_each_key_is_in_exactly_one_shard(keys: list[str], count: int) -> None:
    shards = [Shard(index, count) for index in range(count)]
    assert all(sum(key in shard for shard in shards) == 1 for key in keys)


def test_shards_have_similar_sizes() -> None:
    keys = [f"folder/{index:06}.jpg" for index in range(20_000)]
    sizes = [sum(key in Shard(index, 8) for key in keys) for index in range(8)]
    assert min(sizes) > 2300 and max(sizes) < 2700
