"""SpectralWeight: the spectrum of a weight, made by a plan and taken by every plan of the same fft_size and weight."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import PlanMismatchError


@dataclass(frozen=True, eq=False)
class SpectralWeight:
    """The spectrum of a weight, transformed once; goes where the weight goes, with a plan of its fft_size and weight.

    Made by `ConvPlan.transform_weight`; its layout is the engine's own.

    Examples
    --------
    >>> import numpy as np
    >>> from numba_fftconv import plan_conv2d
    >>> plan = plan_conv2d((2, 3, 10, 10), (4, 3, 5, 5))
    >>> weight = plan.transform_weight(np.ones((4, 3, 5, 5), np.float32))
    >>> weight.weight_shape, weight.dtype, weight.fft_size == plan.fft_size
    ((4, 3, 5, 5), 'float32', True)
    """

    array: np.ndarray = field(repr=False)
    weight_shape: tuple[int, ...]
    dtype: str
    fft_size: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    device: str

    def require(self, where: str, **wanted: Any) -> None:
        """Raise PlanMismatchError where this is of something else than is wanted at the place `where`."""
        said = [
            f"{key} {getattr(self, key)!r} where {where} has {value!r}"
            for key, value in wanted.items()
            if getattr(self, key) != value
        ]
        if said:
            raise PlanMismatchError(f"weight is a SpectralWeight of {', '.join(said)}: transform the weight for it")
