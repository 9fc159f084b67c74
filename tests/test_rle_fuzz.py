"""Ten thousand random and damaged RLE strings: all siblings accept the same ones, and decode them to equal runs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from fastsam_core import ops, rle
from siblings import NAMES, use_sibling

CASES = 10_000


def valid_strings(rng: random.Random) -> list[tuple[bytes, int, int]]:
    """Return (text, height, width) of masks from sparse to dense."""
    numbers = np.random.default_rng(rng.randrange(2**32))
    found = []
    for _ in range(200):
        height, width = rng.randint(0, 30), rng.randint(0, 30)
        mask = numbers.random((height, width)) < rng.choice([0.0, 0.02, 0.3, 0.5, 1.0])
        found.append((rle.encode(mask.astype(np.uint8))["counts"], height, width))
    # Runs, and differences of runs, that take any number of characters.
    for bits in range(1, 62, 3):
        height = 2 ** (bits // 2) + 1
        raw = {"size": [height, 2 ** (bits - bits // 2)], "counts": [1, 2, 0, 0]}
        raw["counts"][2] = raw["size"][0] * raw["size"][1] - 3
        if raw["counts"][2] >= 0:
            found.append((rle.frPyObjects(raw, 0, 0)["counts"], *raw["size"]))
    return found


def damage(rng: random.Random, text: bytes) -> bytes:
    data = bytearray(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randint(0, len(data))
        kind = rng.randrange(6)
        if kind == 0:
            data[at:at] = bytes([rng.randint(48, 111)])
        elif kind == 1:
            del data[at : at + 1]
        elif kind == 2 and data:
            data[at % len(data)] = rng.randint(48, 111)
        elif kind == 3 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 4:
            del data[at:]
        else:
            data[at:at] = bytes(rng.choice(b"oPO_0") for _ in range(rng.randint(1, 15)))
    return bytes(data)


def fuzz_cases() -> list[tuple[bytes, int, int]]:
    rng = random.Random(20_240_229)
    seeds = valid_strings(rng)
    cases = list(seeds)
    while len(cases) < CASES:
        text, height, width = rng.choice(seeds)
        kind = rng.randrange(5)
        if kind < 3:
            cases.append((damage(rng, text), height, width))
        elif kind == 3:
            cases.append((text, height + rng.randint(-1, 1), width + rng.randint(-1, 1)))
        else:
            low, high = rng.choice([(0, 255), (48, 111), (48, 60)])
            cases.append((bytes(rng.randint(low, high) for _ in range(rng.randint(0, 12))), height, width))
    return cases


def runs_of(sibling: str, cases: list[tuple[bytes, int, int]]) -> list[list[int] | None]:
    """Return the runs of each string, or None if it raises ValueError; other exceptions fail the test."""
    from_string = ops.siblings("rle_from_string")[sibling]
    found: list[list[int] | None] = []
    for text, height, width in cases:
        characters = torch.tensor(list(text), dtype=torch.uint8)
        try:
            counts, offsets = from_string(characters, torch.tensor([0, len(text)]), torch.tensor([height * width]))
        except ValueError:
            found.append(None)
            continue
        assert offsets.tolist() == [0, counts.shape[0]]
        found.append(counts.tolist())
    return found


@pytest.fixture(scope="module")
def cases():
    return fuzz_cases()


@pytest.fixture(scope="module")
def expected(cases):
    return runs_of("reference", cases)


def test_accepted_strings_have_runs_that_sum_to_the_pixels(cases, expected):
    accepted = [(runs, h * w) for runs, (_, h, w) in zip(expected, cases, strict=True) if runs is not None]
    assert all(min(runs, default=0) >= 0 and sum(runs) == pixels for runs, pixels in accepted)
    # Both valid and invalid strings must be frequent for these tests to be meaningful.
    assert CASES // 20 < len(accepted) < CASES // 2


@pytest.mark.parametrize("sibling", [name for name in NAMES if name != "reference"])
def test_siblings_agree_on_every_string(sibling, cases, expected):
    for case, ours, theirs in zip(cases, runs_of(sibling, cases), expected, strict=True):
        assert ours == theirs, case


# Different ways to compute the area of a mask; the third, the area of the box, is an upper bound.
FUNCTIONS = [
    lambda r: int(rle.decode(r).sum()),
    lambda r: int(rle.area(r)),
    lambda r: int(rle.toBbox(r)[2:].prod()),
    lambda r: int(rle.area(r)) if rle.iou([r], [r], [0])[0, 0] == 1.0 else 0,
    lambda r: int(rle.area(rle.merge([r, r]))),
    lambda r: int(rle.area(rle.frPyObjects(r, 0, 0))),
    lambda r: int(rle.to_masks([r]).sum()),
]


@pytest.mark.parametrize("sibling", NAMES)
def test_every_function_gives_the_area_or_raises_value_error(sibling, cases, expected, monkeypatch):
    use_sibling(monkeypatch, sibling)
    # The reference is slow and has decoded every string for `expected`, so every third string is enough here.
    step = 3 if sibling == "reference" else 1
    for number, ((text, height, width), runs) in list(enumerate(zip(cases, expected, strict=True)))[::step]:
        damaged = {"size": [height, width], "counts": text if number % 2 else text.decode("latin-1")}
        function = FUNCTIONS[number % len(FUNCTIONS)]
        if runs is None or height < 0 or width < 0:
            with pytest.raises(ValueError):
                function(damaged)
        elif height * width > 10**7 and number % len(FUNCTIONS) in (0, 6):
            assert rle.area(damaged) == sum(runs[1::2])  # too large to decode
        elif number % len(FUNCTIONS) == 2:
            assert function(damaged) >= sum(runs[1::2])
        else:
            assert function(damaged) == sum(runs[1::2])
