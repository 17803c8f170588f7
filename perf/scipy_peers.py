"""scipy as a peer: overlap-add by signal.oaconvolve, the way to convolve one large plane by FFT on a CPU."""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.signal
from layers import Layer
from peers import Arrays, Settings


def overlap_add(layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> Settings:
    """In one thread and in all; a single plane with stride 1 only: others need sums that scipy lacks."""
    if (layer.N, layer.C, layer.K) != (1, 1, 1) or layer.stride != (1, 1):
        return {}
    (top, left), H, W = layer.padding, layer.H, layer.W
    padded = np.pad(arrays["x"], ((0, 0), (0, 0), (top, top), (left, left)))
    first, second, mode = {
        "forward": (padded, arrays["w"][..., ::-1, ::-1].copy(), "valid"),
        "input_grad": (arrays["dy"], arrays["w"], "full"),
        "weight_grad": (padded, arrays["dy"][..., ::-1, ::-1].copy(), "valid"),
    }[pass_name]

    def call(workers: int) -> np.ndarray:
        with scipy.fft.set_workers(workers):
            result = scipy.signal.oaconvolve(first, second, mode=mode, axes=(2, 3))
        return result[..., top : top + H, left : left + W] if pass_name == "input_grad" else result

    return {f"oaconvolve, {n} worker{'s' * (n > 1)}": lambda n=n: call(n) for n in sorted({1, threads})}
