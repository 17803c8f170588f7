"""Products of spectra of every pass, drawn, and by their definition; the tests of both engines' stages share them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from numba_fftconv.integers import bins

ALLOWED = {"float32": 1e-6, "float64": 1e-14}  # error of a whole array, relative to its norm
PASSES = ("forward", "input_grad", "weight_grad")


@dataclass(frozen=True)
class StageProblem:
    """m images, groups of Cg channels and Kg filters, at one T."""

    pass_name: str
    T: int
    m: int
    Cg: int
    Kg: int
    groups: int = 1
    dtype: str = "float32"
    seed: int = 0

    def operands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """a, b and something of the shape of the result."""
        C, K, F = self.groups * self.Cg, self.groups * self.Kg, bins((self.T, self.T))
        rng = np.random.default_rng(self.seed)
        shapes = {"X": (F, self.m, C), "W": (F, K, self.Cg), "Y": (F, self.m, K)}
        order = {"forward": "XWY", "input_grad": "YWX", "weight_grad": "XYW"}[self.pass_name]
        kind = {"float32": "complex64", "float64": "complex128"}[self.dtype]
        a, b, old = (
            (rng.standard_normal(shapes[name]) + 1j * rng.standard_normal(shapes[name])).astype(kind) for name in order
        )
        return a, b, old

    def size(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """What the errors of the sums are relative to."""
        return product(self, abs(a), abs(b))


def product(problem: StageProblem, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One matrix product for each bin and group, as the table of passes.py says, halved; in double precision."""
    y = np.zeros(problem.operands()[2].shape, complex)
    a, b = a.astype(complex), b.astype(complex)
    for f, g in np.ndindex(len(a), problem.groups):
        c, k = slice(g * problem.Cg, (g + 1) * problem.Cg), slice(g * problem.Kg, (g + 1) * problem.Kg)
        if problem.pass_name == "forward":
            y[f, :, k] = a[f, :, c] @ b[f, k].conj().T / 2
        elif problem.pass_name == "input_grad":
            y[f, :, c] = a[f, :, k] @ b[f, k] / 2
        else:
            y[f, k] = b[f, :, k].conj().T @ a[f, :, c] / 2
    return y


def close(got: np.ndarray, want: np.ndarray, of: Any = None) -> None:
    """Near enough for its dtype, by the norm of what is wanted, or of what the terms of its sums were."""
    sizes = of if isinstance(of, tuple) else (want if of is None else of,)
    allowed = ALLOWED["float32" if got.dtype in (np.float32, np.complex64) else "float64"]
    error, size = np.linalg.norm(got - want), sum(np.linalg.norm(each) for each in sizes)
    assert got.shape == want.shape and error <= allowed * size, f"error {error:.3g}, allowed {allowed * size:.3g}"


@st.composite
def stage_problems(
    draw: Any, dtypes: tuple[str, ...] = ("float32",), lengths: tuple[int, ...] = (2, 4, 6, 8), most: int = 5
) -> StageProblem:
    """Of all passes; depthwise in part."""
    return StageProblem(
        draw(st.sampled_from(PASSES)),
        draw(st.sampled_from(lengths)),
        draw(st.integers(0, most)),
        draw(st.just(1) | st.integers(1, most)),
        draw(st.integers(1, most)),
        draw(st.just(1) | st.integers(1, 3)),
        draw(st.sampled_from(dtypes)),
        draw(st.integers(0, 99)),
    )
