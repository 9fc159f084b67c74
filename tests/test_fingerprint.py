"""Fingerprint of weights: what it covers, and that its value stays the same from version to version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fastsam_core.models.fingerprint import weights_hash


class Tensors(nn.Module):
    """A module with these tensors: buffers whose names begin with an underscore, and parameters."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            if name.startswith("_"):
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def weights() -> dict[str, torch.Tensor]:
    return {
        "weight": torch.arange(6.0).reshape(2, 3),
        "bias": torch.tensor([0.5, -1.0]),
        "_steps": torch.tensor(7),
    }


def test_hash_is_the_sha256_of_names_dtypes_shapes_and_values() -> None:
    """Written files hold this value, so it must not change."""
    content = b"_steps torch.int64 ();" + np.int64(7).tobytes()
    content += b"bias torch.float32 (2,);" + np.array([0.5, -1], np.float32).tobytes()
    content += b"weight torch.float32 (2, 3);" + np.arange(6, dtype=np.float32).tobytes()
    assert weights_hash(Tensors(**weights())) == hashlib.sha256(content).hexdigest()


def test_order_and_strides_of_tensors_do_not_matter() -> None:
    expected = weights_hash(Tensors(**weights()))
    assert weights_hash(Tensors(**dict(reversed(weights().items())))) == expected
    spread = {
        "weight": weights()["weight"].t().contiguous().t(),
        "bias": torch.tensor([0.5, 9, -1.0, 9])[::2],
    }
    assert not any(tensor.is_contiguous() for tensor in spread.values())
    assert weights_hash(Tensors(**{**weights(), **spread})) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {**tensors, "weight": tensors["weight"].reshape(3, 2)},
        lambda tensors: {**tensors, "weight": tensors["weight"].view(torch.int32)},
        lambda tensors: {**tensors, "bias": torch.tensor([0.5, -1.25])},
        lambda tensors: {**tensors, "_steps": torch.tensor(8)},
        lambda tensors: {"weight": tensors["weight"], "offset": tensors["bias"], "_steps": tensors["_steps"]},
        lambda tensors: {"weight": tensors["weight"], "bias": tensors["bias"]},
    ],
    ids=["shape", "dtype", "value", "buffer", "name", "missing"],
)
def test_hash_changes_with(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    assert weights_hash(Tensors(**change(weights()))) != weights_hash(Tensors(**weights()))


def test_bfloat16_weights_are_hashed_by_their_bits() -> None:
    one, other = torch.tensor([1.0, 2.0]).bfloat16(), torch.tensor([1.0, 2.015625]).bfloat16()
    assert weights_hash(Tensors(weight=one)) == weights_hash(Tensors(weight=one.clone()))
    assert weights_hash(Tensors(weight=one)) != weights_hash(Tensors(weight=other))
