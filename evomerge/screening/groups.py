"""Groups of experts with nearly the same task vector, up to its length."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray


def similar_groups(labels: Sequence[str], cosines: NDArray[np.float64], similar: float) -> list[tuple[str, ...]]:
    """The labels in groups: two with a cosine of at least `similar` are in one group, and so are all in between.

    `cosines` is [labels, labels]. Groups and their members are in alphabetical order.
    """
    group = {label: {label} for label in labels}
    for one, other in combinations(range(len(labels)), 2):
        if cosines[one, other] >= similar:
            joined = group[labels[one]] | group[labels[other]]
            group |= dict.fromkeys(joined, joined)
    return sorted({tuple(sorted(members)) for members in group.values()})
