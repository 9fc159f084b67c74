"""Kinds of material that objects are made of: likely colours and textures of skin, cloth, fur, glass and the like.

A piece names its material kind by its material_slot: slots from `FIRST_KIND_SLOT` up stand for kinds, smaller ones for
any material. Contrasts within an object matter as much as likely colours: a striped coat or a printed shirt is still
one object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIRST_KIND_SLOT = 1000  # the lowest slot that names a material kind


@dataclass(frozen=True)
class MaterialKind:
    """A kind of material.

    colours: (K, 3) float32, likely colours, RGB in [0, 1]; any colour if empty. textures: names of suitable textures;
    all if empty. contrast: minimum and maximum contrast of the texture.
    """

    colours: np.ndarray
    textures: tuple[str, ...]
    contrast: tuple[float, float]


def _kind(colours: str, textures: str, low: float, high: float) -> MaterialKind:
    values = [[int(colour[k : k + 2], 16) / 255.0 for k in (0, 2, 4)] for colour in colours.split()]
    return MaterialKind(np.array(values, np.float32), tuple(textures.split()), (low, high))


_KINDS: tuple[tuple[str, MaterialKind], ...] = (
    ("skin", _kind("e8b89a d9a183 c68863 a56b46 7a4a2f 55341f f0cdb4", "flat noise", 0.02, 0.12)),
    ("hair", _kind("1a1512 2e2018 4a3120 6b4a2c a67c45 c9a86a 8c8c8a 6a2f1b", "fibres", 0.08, 0.3)),
    ("cloth", _kind("", "flat noise weave fibres gradient wood", 0.03, 0.2)),
    ("pattern", _kind("", "stripes checks dots print cells leaves weave", 0.25, 0.9)),
    ("denim", _kind("2a3a5c 3f5478 1d2433 6d83a3 22242a 4a453e 8a7c63 b5a98f", "flat noise weave", 0.03, 0.15)),
    ("shoe", _kind("17161a 2b2522 5a3a25 e6e4e0 8a8a8c b03028", "flat noise", 0.03, 0.2)),
    (
        "fur",
        _kind("8a6b4a 5c4028 33261c b59468 d8c4a0 1c1a19 7c7a78 e8e4dc a85f2c", "fibres noise speckle", 0.08, 0.4),
    ),
    ("coat", _kind("b98d52 6b4326 e6d8b8 2a2522 f0ece4 9a9a96", "stripes cells noise marble", 0.5, 1.2)),
    ("hide", _kind("77706a 5e5852 8f857a 4b4038 a39a90", "noise marble speckle cells", 0.08, 0.3)),
    ("horn", _kind("2a2420 d8ccb4 6a5a48", "flat", 0.02, 0.1)),
    ("glass", _kind("1c2630 2f3f4c 5d7484 9db4c4 c8d8e2 101418", "gradient marble noise leaves", 0.1, 0.6)),
    ("tyre", _kind("141416 1e1e20 2a2a2b", "flat noise", 0.02, 0.1)),
    ("metal", _kind("b4b8bc 8c9196 d6d8da 5e6266 3a3c3f c0a860", "flat gradient fibres", 0.05, 0.4)),
    ("paint", _kind("b02020 1f3f8c e8e8e8 151517 c8a018 2f6b3a 7a8288 d86a1c 8cb4d8", "flat gradient", 0.02, 0.12)),
    ("leaf", _kind("35521e 4f7328 6f8f3c 243a18 8a9a48 58784a", "leaves cells noise fibres", 0.2, 0.7)),
    ("petal", _kind("d83a5a f0c020 e8e4f0 b050b0 f08030 e8a0b8 7060c8", "flat noise gradient", 0.05, 0.3)),
    ("wood", _kind("8a5c34 6b4326 b48a58 d0a878 4a2f1c 9c7048", "wood fibres", 0.1, 0.4)),
    ("ceramic", _kind("f2f0ea e4e0d8 d8d4cc 5c7ca0 b8c8d0 2e2e32 a8583c", "flat gradient", 0.01, 0.06)),
    ("bread", _kind("c08a4a a86a30 d8b078 7c4a20 e8cf9c", "noise speckle cells", 0.1, 0.4)),
    (
        "food",
        _kind(
            "b8341c e0a020 6f8f2c d86a2c f0e0a8 7a3a20 c85a4a 4a6a24 e8d8b0",
            "noise speckle cells leaves marble",
            0.1,
            0.6,
        ),
    ),
    (
        "fruit",
        _kind("c82820 e8b820 e87820 7aa030 d8c840 7a2040 f0d060 4a7a28", "flat noise speckle gradient", 0.03, 0.25),
    ),
    ("ink", _kind("151515 f4f4f4 b02020 1f3f8c e8c030 208050", "flat", 0.0, 0.03)),
    ("paper", _kind("f4f2ec ece4d0 e0e0e0 d0c8b0", "flat print noise", 0.02, 0.3)),
    ("brick", _kind("8c4a3a b07a5c 9c8c7c c8bca8 6a6460 d8d0c0", "bricks noise flat", 0.05, 0.4)),
    ("tile", _kind("8a4030 5c4038 4a4c50 6a5a4a", "bricks weave stripes", 0.1, 0.4)),
    ("leather", _kind("4a2c1a 1a1817 7a4a2a a87a4c 5a1f1f", "noise cells flat", 0.04, 0.2)),
)

KIND_NAMES = tuple(name for name, _ in _KINDS)


def material_slot(name: str, variant: int = 0) -> int:
    """Return the slot for the material kind `name`; ValueError if it is not in `KIND_NAMES`.

    Slots with a different `variant` get a different look of the same kind within one object.
    """
    if name not in KIND_NAMES:
        raise ValueError(f"unknown stuff {name!r}; accepted: {', '.join(KIND_NAMES)}")
    return FIRST_KIND_SLOT + KIND_NAMES.index(name) + len(_KINDS) * variant


def kind_of_slot(slot: int) -> MaterialKind:
    """Return the material kind that a slot from `FIRST_KIND_SLOT` up names."""
    return _KINDS[(slot - FIRST_KIND_SLOT) % len(_KINDS)][1]
