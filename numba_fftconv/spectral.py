"""Operands that are transformed already: made by a plan, taken by every plan that would transform them alike.

    SpectralWeight   taken by plans of the same fft_size and weight, for forward and input_grad
    SpectralInput    taken by plans of the same fft_size and layer, for forward and weight_grad
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from .errors import PlanMismatchError
from .geometry import ConvGeometry


@dataclass(frozen=True, eq=False)
class Spectral:
    """The spectrum of an operand; its layout is the engine's own."""

    name: ClassVar[str]  # of the operand
    array: np.ndarray = field(repr=False)
    dtype: str  # of the samples
    fft_size: tuple[int, int]
    device: str

    @property
    def made_for(self) -> tuple[Any, ...]:
        """All that decides which plans take it."""
        return type(self), self.dtype, self.fft_size, self.device

    def require(self, where: str, **wanted: Any) -> None:
        """Raise PlanMismatchError where this is of something else than is wanted at the place `where`."""
        said = [
            f"{key} {getattr(self, key)!r} where {where} has {value!r}"
            for key, value in wanted.items()
            if getattr(self, key) != value
        ]
        if said:
            made = f"{self.name} is a {type(self).__name__} of {', '.join(said)}"
            raise PlanMismatchError(f"{made}: transform the {self.name} for it")


@dataclass(frozen=True, eq=False)
class SpectralWeight(Spectral):
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

    name = "weight"
    weight_shape: tuple[int, ...]
    dilation: tuple[int, int]
    groups: int

    @property
    def made_for(self) -> tuple[Any, ...]:
        return *super().made_for, self.weight_shape, self.dilation, self.groups


@dataclass(frozen=True, eq=False)
class SpectralInput(Spectral):
    """The spectrum of an input, transformed once; goes where the input goes, with a plan of its fft_size and layer.

    Made by `ConvPlan.transform_input`; its layout is the engine's own. It holds the input as well: on a CPU the weight
    gradient of some layers has channels in its lanes, and transforms it anew.

    Examples
    --------
    >>> import numpy as np
    >>> from numba_fftconv import plan_conv2d
    >>> plan = plan_conv2d((2, 3, 10, 10), (4, 3, 5, 5))
    >>> x = plan.transform_input(np.ones((2, 3, 10, 10), np.float32))
    >>> x.geometry.input_shape, x.dtype, x.fft_size == plan.fft_size
    ((2, 3, 10, 10), 'float32', True)
    """

    name = "input"
    geometry: ConvGeometry
    owner: Any = field(repr=False)  # the input as the caller gave it ...
    planes: np.ndarray = field(repr=False)  # ... and as it is read

    @property
    def made_for(self) -> tuple[Any, ...]:
        return *super().made_for, self.geometry
