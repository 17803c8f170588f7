"""Is a result right? Before anything is timed, ours is held against the definition in float64, and peers against ours.

The definition is torch's convolution in float64 where torch is installed, or else the loops of tests/reference.py. It
is computed for a few images, groups and filters, first and last among them; all elements are compared with the peers'
results, more loosely.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import libraries
import numpy as np
from layers import Layer
from peers import Arrays
from place import Place

from numba_fftconv import ConvPlan

SAMPLE_IMAGES = 2
SAMPLE_GROUPS = 4
SAMPLE_FILTERS = 8
ERRORS = {"float32": 5e-7, "float64": 1e-14}  # relative L2, at a depth of 256
LOOSER = {"bf16x3": 1e-5, "tf32": 5e-4}  # the same, of what computes less precisely on a GPU


class WrongResultError(Exception):
    """Ours and a peer's results differ: nothing is timed."""


def tolerance(layer: Layer, plan: ConvPlan, pass_name: str) -> float:
    """The relative L2 error that the project allows: it grows with the root of the sum's length."""
    rows, cols = plan.segments["forward"]
    depth = {
        "forward": layer.C // layer.groups,
        "input_grad": layer.K // layer.groups,
        "weight_grad": layer.N * rows * cols,
    }[pass_name]
    error = ERRORS[layer.dtype] if plan.device == "cpu" else LOOSER.get(plan.precision, ERRORS[layer.dtype])
    return error * max(1.0, (depth / 256) ** 0.5)


def spread(count: int, total: int) -> np.ndarray:
    """At most `count` indices of `total`, first and last among them."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))


def sampled_error(layer: Layer, pass_name: str, arrays: Arrays, result: np.ndarray, place: Place) -> float:
    """Relative L2 error against the definition in float64, on a sample."""
    images = np.arange(layer.N) if pass_name == "weight_grad" else spread(SAMPLE_IMAGES, layer.N)
    groups = spread(SAMPLE_GROUPS, layer.groups)
    channels = np.arange(layer.C).reshape(layer.groups, -1)[groups].ravel()
    filters = np.arange(layer.K).reshape(layer.groups, -1)[groups].ravel()
    if pass_name != "input_grad" and layer.groups == 1:
        filters = filters[spread(SAMPLE_FILTERS, len(filters))]
    read, written = np.ix_(images, channels), np.ix_(images, filters)
    parts = (arrays["x"][read], arrays["w"][filters], arrays["dy"][written])
    exact = definition(replace(layer, groups=len(groups)), pass_name, parts, place)
    sample = result[{"forward": written, "input_grad": read, "weight_grad": filters}[pass_name]]
    return float(np.linalg.norm((sample - exact).ravel()) / np.linalg.norm(exact.ravel()))


def definition(layer: Layer, pass_name: str, parts: tuple[np.ndarray, ...], place: Place) -> np.ndarray:
    """A pass in float64, by torch where it is installed, as it is much faster and runs on a GPU too."""
    if libraries.installed("torch") is None:
        return by_loops(layer, pass_name, *parts)
    import torch
    from torch_peers import torch_call

    tensors = [torch.as_tensor(place.put(part)).double() for part in parts]
    return place.numpy(torch_call(layer, pass_name, *tensors))


def by_loops(layer: Layer, pass_name: str, x: np.ndarray, w: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """A pass by the definition that the tests have."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import reference

    operands = {"forward": (x, w), "input_grad": (x.shape, w, dy), "weight_grad": (x, w.shape, dy)}
    top, left = layer.padding
    geometry = layer.stride, ((top, top), (left, left)), (1, 1), layer.groups
    result: np.ndarray = getattr(reference, pass_name)(*operands[pass_name], *geometry)
    return result


def require_agreement(who: str, result: Any, other: Any, loose: float) -> None:
    """Raises unless every element agrees with a peer's, up to a loose bound in units of the result's own scale."""
    if not abs(result - other).max() <= loose * abs(result).max():
        raise WrongResultError(f"{who} and numba_fftconv differ by more than {loose:g} of the largest element")
