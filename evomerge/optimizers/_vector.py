"""A point of the unit cube, or a batch of numbers about such points."""

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
