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
    """The plan that `call` runs any pass with."""
    return numba_fftconv.plan_conv2d(layer.input_shape, layer.weight_shape, dtype=layer.dtype, **layer.options)
