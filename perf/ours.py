"""The layers by the functions that a user calls: NumPy arrays in and out, the weights transformed in every call."""

import numpy as np
from layers import Layer

import numba_fftconv


def call(layer: Layer, pass_name: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """One pass of the layer."""
    if pass_name == "forward":
        return numba_fftconv.conv2d(x, w, **layer.options)
    if pass_name == "input_grad":
        return numba_fftconv.conv2d_input_grad(x.shape, w, dy, **layer.options)
    return numba_fftconv.conv2d_weight_grad(x, w.shape, dy, **layer.options)


def plan(layer: Layer, pass_name: str) -> numba_fftconv.ConvPlan:
    """The plan that `call` runs the pass with."""
    options = layer.options
    geometry = numba_fftconv.ConvGeometry.from_arguments(layer.input_shape, layer.weight_shape, **options)
    return numba_fftconv.ConvPlan.build(geometry, layer.dtype, device="cpu", passes=(pass_name,))
