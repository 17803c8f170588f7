"""One call of a plan on NumPy arrays: memory for it, and the passes as runs of the CPU engine."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import arrays, dtypes
from ..passes import Pass
from ..spectral import SpectralWeight
from . import engine, threads
from .engine import Operand, Run

Operands = Mapping[str, np.ndarray | SpectralWeight]


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

    def run(self, row: Pass, read: Operands, result: np.ndarray, space: np.ndarray) -> None:
        if self.plan.geometry.N == 0:  # nothing is summed, where there is anything
            result[...] = 0
        else:
            self._run(row, read, result, space)()

    def run_gradients(
        self, rows: Iterable[Pass], read: Operands, results: Mapping[str, np.ndarray], space: np.ndarray
    ) -> None:
        for row in rows:
            self.run(row, read, results[row.result], space)

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

    def transform_weight(self, weight: np.ndarray) -> np.ndarray:
        """The spectrum of a weight, as an array of its own."""
        plan, array = self.plan, arrays.aligned(weight)
        work = plan.choice.by_pass["forward"].work
        try:
            return engine.transform_weights(work, self._planes("w", array), plan.threads)
        except MemoryError as error:
            raise arrays.no_memory("the spectrum of this weight", work.all_weights().reals * work.itemsize) from error

    def _run(self, row: Pass, read: Operands, result: np.ndarray, space: np.ndarray) -> Run:
        """What runs a pass."""
        choice = self.plan.choice.by_pass[row.name]
        first, second, bias = (read.get(name) for name in (*row.operands, "bias"))
        assert isinstance(first, np.ndarray) and second is not None and not isinstance(bias, SpectralWeight)
        if isinstance(second, SpectralWeight):
            weight: Operand | np.ndarray = second.array
        else:
            weight = self._planes(row.maps[1], arrays.aligned(second))
        written = self._planes(row.maps[2], result, written=True)
        operands = self._planes(row.maps[0], arrays.aligned(first)), weight, written
        bias = None if bias is None else dtypes.widened(arrays.aligned(bias))
        return Run.of_pass(choice.work, choice.schedule, *operands, space.view(self.plan.real), bias)

    def _planes(self, maps: str, array: np.ndarray, written: bool = False) -> Operand:
        """An operand in four dimensions with its plane maps."""
        rows, columns = self.plan.maps[maps]
        return Operand(array if array.ndim == 4 else array[None], rows, columns, written)
