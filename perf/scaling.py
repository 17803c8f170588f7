"""How time grows: sweeps over kernel size, image size, batch and channels, one figure of a layer at a time.

Every point is a row as any other: checked, timed in turns with the peers in one run. The layer that is varied is that
of speed/k5, padded so that the output is as large as the input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from layers import Layer

SOURCE = "numba_fftconv, a sweep"
BODY = Layer("scaling/body", SOURCE, 16, 64, 32, 32, 64, 5, 5, padding=(2, 2))


@dataclass(frozen=True)
class Sweep:
    """One figure of the layer and the values that it takes; `problem` is the layer with a letter in its place."""

    name: str
    axis: str
    problem: str
    values: tuple[int, ...]
    few: tuple[int, ...]
    change: Callable[[Layer, int], Layer]

    def layer(self, value: int, images: int) -> Layer:
        """The layer with that value, of so many images where the batch is not what varies."""
        return replace(self.change(replace(BODY, N=images), value), name=f"scaling/{self.name}-{value}")


SWEEPS = (
    Sweep(
        "kernel", "kernel size R, samples a side", "{N}x64x32x32 -> 64, RxR, padding R/2",
        (3, 5, 7, 9, 11, 13, 15, 19, 23, 27, 31), (5, 13),
        lambda layer, R: replace(layer, R=R, S=R, padding=(R // 2, R // 2)),
    ),
    Sweep(
        "image", "image size H, samples a side", "{N}x64xHxH -> 64, 5x5, padding 2",
        (8, 12, 16, 24, 32, 48, 64, 96, 128), (8, 32),
        lambda layer, H: replace(layer, H=H, W=H),
    ),
    Sweep(
        "batch", "images N", "Nx64x32x32 -> 64, 5x5, padding 2",
        (1, 2, 4, 8, 16, 32, 64), (1, 4),
        lambda layer, N: replace(layer, N=N),
    ),
    Sweep(
        "channels", "channels C, as many filters", "{N}xCx32x32 -> C, 5x5, padding 2",
        (1, 2, 4, 8, 16, 32, 64, 128, 256), (4, 32),
        lambda layer, C: replace(layer, C=C, K=C),
    ),
)  # fmt: skip
