"""Composites: several objects that a person might also regard as one, and how often each kind is drawn.

The union of a composite's objects is a group of the scene.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .arrangements import dish, full_bowl, heap, laid_table, shelf, stack, vase
from .company import carrier, cyclist, driven, party, rider, sitter
from .placing import Things
from .shapes import Cluster, cluster

Maker = Callable[[np.random.Generator], Things]
MAKERS: tuple[tuple[Maker, float, bool], ...] = (
    (rider, 1.2, True),
    (cyclist, 1.2, True),
    (carrier, 1.6, True),
    (dish, 1.8, False),
    (full_bowl, 1.2, True),
    (vase, 1.0, True),
    (stack, 1.0, True),
    (shelf, 0.7, True),
    (laid_table, 1.0, True),
    (sitter, 1.2, True),
    (heap, 0.8, True),
    (party, 1.2, True),
    (driven, 0.6, True),
)


def any_cluster(rng: np.random.Generator, *, upright: bool | None = None) -> Cluster:
    """Return a random composite. upright: True excludes those seen from above."""
    table = [row for row in MAKERS if not upright or row[2]]
    shares = np.cumsum([weight for _, weight, _ in table])
    maker, _, stands = table[int(np.searchsorted(shares, float(rng.random()) * float(shares[-1]), side="right"))]
    members = maker(rng)
    # In a party each member stands on the ground, and in some composites the first two. Elsewhere only the first does.
    standing = tuple(range(len(members))) if maker is party else (0, 1) if maker in (vase, driven) else (0,)
    return cluster(members, upright=stands, standing=standing)
