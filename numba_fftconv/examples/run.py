"""What came of one training, to be held against another and drawn."""

from dataclasses import dataclass

import numpy as np

from .digits import Array


@dataclass(frozen=True)
class Run:
    """What came of one learner."""

    name: str
    dtype: str
    losses: Array  # by step
    accuracy: float  # part of the test digits
    seconds: float
    kernels: Array  # of the first layer

    def apart(self, other: "Run") -> Array:
        """How far the losses lie from another's, by step."""
        return np.abs(self.losses - other.losses)
