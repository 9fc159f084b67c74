"""Composites: several objects that a person might also regard as one, and how often each kind is drawn.

The union of a composite's objects is a group of the scene.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .figure_composites import carrier, cyclist, gathering, loaded_vehicle, rider, sitter
from .object_composites import dish, full_bowl, heap, laid_table, shelf, stack, vase
from .placement import ObjectPieces
from .shapes import Cluster, make_cluster

Maker = Callable[[np.random.Generator], ObjectPieces]
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
    (gathering, 1.2, True),
    (loaded_vehicle, 0.6, True),
)


def random_cluster(rng: np.random.Generator, *, upright: bool | None = None) -> Cluster:
    """Return a random composite. upright: True excludes those seen from above."""
    table = [row for row in MAKERS if not upright or row[2]]
    cumulative_weights = np.cumsum([weight for _, weight, _ in table])
    maker, _, is_upright = table[
        int(np.searchsorted(cumulative_weights, float(rng.random()) * float(cumulative_weights[-1]), side="right"))
    ]
    members = maker(rng)
    # In a party each member stands on the ground, and in some composites the first two. Elsewhere only the first does.
    standing = tuple(range(len(members))) if maker is gathering else (0, 1) if maker in (vase, loaded_vehicle) else (0,)
    return make_cluster(members, upright=is_upright, standing=standing)
