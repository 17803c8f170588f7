"""The three passes as one table.

Letters: x[N,C,H,W], w[K,C,R,S], y[N,K,P,Q]; f a frequency bin, m an (image, segment) pair. A pass transforms its
operands A and B, multiplies them bin by bin summed over the contracted letter, and transforms the result back. Which
sample of a plane lies where in its T x T tile is said by three plane maps, named after the methods of `geometry.Axis`.

    forward      Y[f,m,k]  = sum_c  X[f,m,c] * conj W[f,k,c]        y_k   = sum_c x_c  *  w_kc
    input_grad   dX[f,m,c] = sum_k dY[f,m,k] *      W[f,k,c]        dx_c  = sum_k dy_k *  w_kc transposed
    weight_grad  dW[f,k,c] = sum_m  X[f,m,c] * conj dY[f,m,k]       dw_kc = sum_m dy_k *  x_c

Source: Mathieu, Henaff, LeCun, Fast Training of Convolutional Networks through FFTs, arXiv 1312.5851, section 2.
"""

from dataclasses import dataclass
from typing import Any

from .errors import InvalidOptionError


@dataclass(frozen=True)
class Pass:
    """One row of the table: operands in the caller's words, letters, and the maps that place them in a tile."""

    name: str
    operands: tuple[str, str]
    result: str
    letters: tuple[str, str, str]
    maps: tuple[str, str, str]
    contracted: str
    conjugated: str

    @property
    def equation(self) -> str:
        """What the multiply stage does in each bin."""
        first, second = (f"conj {letter}" if letter == self.conjugated else letter for letter in self.letters[:2])
        return f"{self.letters[2]} = sum over {self.contracted} of {first} * {second}"

    def extents(self, m: int, c: int, k: int) -> tuple[int, int, int]:
        """Rows, columns and depth of the product in a bin, of m windows, c channels and k filters."""
        return {"c": (m, k, c), "k": (m, c, k), "m": (k, c, m)}[self.contracted]


FORWARD = Pass("forward", ("input", "weight"), "output", ("X", "W", "Y"), ("x", "w", "y"), "c", "W")
INPUT_GRAD = Pass("input_grad", ("grad_output", "weight"), "input", ("dY", "W", "dX"), ("dy_halo", "w", "dx"), "k", "")
WEIGHT_GRAD = Pass("weight_grad", ("input", "grad_output"), "weight", ("X", "dY", "dW"), ("x", "y", "w"), "m", "dY")

PASSES = {row.name: row for row in (FORWARD, INPUT_GRAD, WEIGHT_GRAD)}


def named(pass_name: Any) -> Pass:
    """The pass that a caller names."""
    if not isinstance(pass_name, str) or pass_name not in PASSES:
        raise InvalidOptionError(f"pass_name is {pass_name!r}: it must be one of {', '.join(PASSES)}")
    return PASSES[pass_name]
