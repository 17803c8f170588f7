"""The layers by the functions that a user calls: arrays of one place in and out, the weights transformed every time."""

from typing import Any

from layers import Layer

import numba_fftconv


def call(layer: Layer, pass_name: str, x: Any, w: Any, dy: Any) -> Any:
    """One pass of the layer."""
    options = {**layer.options, "precision": layer.precision}
    if pass_name == "forward":
        return numba_fftconv.conv2d(x, w, **options)
    if pass_name == "input_grad":
        return numba_fftconv.conv2d_input_grad(x.shape, w, dy, **options)
    return numba_fftconv.conv2d_weight_grad(x, w.shape, dy, **options)


def plan(layer: Layer, device: str) -> numba_fftconv.ConvPlan:
    """The plan that `call` runs any pass with."""
    options = {**layer.options, "dtype": layer.dtype, "precision": layer.precision, "device": device}
    return numba_fftconv.plan_conv2d(layer.input_shape, layer.weight_shape, **options)
