"""One call of a plan on NumPy arrays: memory for it, and the passes as runs of the CPU engine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import arrays, dtypes
from ..passes import FORWARD, WEIGHT_GRAD, Pass
from ..spectral import Spectral, SpectralInput
from . import schedule, threads
from .engine import Operand, Run

Operands = Mapping[str, np.ndarray | Spectral]


class Call:
    """A plan, and the arrays of one call of it; the plan has checked them."""

    alignment = arrays.ALIGNMENT

    def __init__(self, plan: Any, read: Operands, stream: Any) -> None:
        arrays.check_no_stream(stream)
        self.plan = plan

    empty = staticmethod(arrays.new)

    def workspace(self, nbytes: int) -> np.ndarray:
        """Bytes to work in, which this thread keeps for its next call."""
        return threads.memory(nbytes)

    def run(self, row: Pass, read: Operands, result: np.ndarray, space: np.ndarray, dy_there: bool = False) -> None:
        """A pass; `dy_there` where the workspace begins with the spectrum of dy."""
        if self.plan.geometry.N == 0:  # nothing is summed, where there is anything
            result[...] = 0
        else:
            self._run(row, read, result, space, dy_there)()

    def run_gradients(
        self, rows: Sequence[Pass], read: Operands, results: Mapping[str, np.ndarray], space: np.ndarray
    ) -> None:
        """One after the other; the second takes the spectrum of dy from the first where it can."""
        shared = len(rows) == 2 and self.plan.shares_dy
        for row in rows:
            self.run(row, read, results[row.result], space, dy_there=shared and row is WEIGHT_GRAD)

    def profile(self, row: Pass, read: Operands, result: np.ndarray, space: np.ndarray) -> list[float]:
        """Seconds of each stage."""
        return self._run(row, read, result, space).profile()

    def bias_grad(self, dy: np.ndarray) -> np.ndarray:
        """The sum of each filter's plane over all images."""
        images = dy if dy.ndim == 4 else dy[None]
        whole = [images] if self.plan.dtype == self.plan.real else images[:, None]  # by image: a copy each
        total = np.zeros(images.shape[1])
        for some in whole:
            total += dtypes.widened(some).sum((0, 2, 3), dtype=np.float64)
        return dtypes.rounded(total, self.plan.dtype)

    def transform(self, name: str, planes: np.ndarray, space: np.ndarray) -> np.ndarray:
        """The spectrum of an input or a weight, at the beginning of some bytes."""
        work, reals = self.plan.choice.by_pass["forward"].work, space.view(self.plan.real)
        operand = self._planes(FORWARD.maps[FORWARD.operands.index(name)], arrays.aligned(planes))
        if planes.size:
            Run.of_transform(work, name, operand, self.plan.threads, reals)()
        return self.spectrum(name, space)

    def spectrum(self, name: str, space: np.ndarray) -> np.ndarray:
        """What of the bytes that `transform` has filled is the spectrum."""
        work = self.plan.choice.by_pass["forward"].work
        return space.view(self.plan.real)[: schedule.spectrum_of(work, name).reals]

    def _run(self, row: Pass, read: Operands, result: np.ndarray, space: np.ndarray, dy_there: bool = False) -> Run:
        """What runs a pass."""
        choice, reals = self.plan.choice.by_pass[row.name], space.view(self.plan.real)

        def operand(name: str, maps: str) -> Operand | np.ndarray:
            """Planes, or their spectrum where the pass takes the one that is given."""
            value = read[name]
            if isinstance(value, SpectralInput) and choice.work.exchanged:
                value = value.planes
            if isinstance(value, Spectral):
                return value.array
            return reals if dy_there and name == "grad_output" else self._planes(maps, arrays.aligned(value))

        first, second = map(operand, row.operands, row.maps)
        written, bias = self._planes(row.maps[2], result, written=True), read.get("bias")
        assert not isinstance(bias, Spectral)
        bias = None if bias is None else dtypes.widened(arrays.aligned(bias))
        return Run.of_pass(choice.work, choice.schedule, first, second, written, reals, bias)

    def _planes(self, maps: str, array: np.ndarray, written: bool = False) -> Operand:
        """An operand in four dimensions with its plane maps."""
        rows, columns = self.plan.maps[maps]
        return Operand(array if array.ndim == 4 else array[None], rows, columns, written)
