"""What numba_fftconv is held against: torch (oneDNN) and scipy.signal.oaconvolve, in every setting worth trying.

A setting is a call without arguments, its operands prepared beforehand in the layout that suits it: the peer pays for
no conversion, padding or flip.  The better setting of a peer is the one that it is timed with.
"""

from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.signal
import torch
from layers import Layer

Arrays = dict[str, np.ndarray]
Settings = dict[str, Callable[[], object]]


def operands(layer: Layer, seed: int = 0) -> Arrays:
    """Normal random arrays x, w and dy."""
    rng = np.random.default_rng(seed)
    shapes = {"x": layer.input_shape, "w": layer.weight_shape, "dy": layer.output_shape}
    return {name: rng.standard_normal(shape).astype(layer.dtype) for name, shape in shapes.items()}


def torch_call(layer: Layer, pass_name: str, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """One pass by the functions that a user of torch calls."""
    if pass_name == "forward":
        return torch.nn.functional.conv2d(x, w, **layer.options)
    if pass_name == "input_grad":
        return torch.nn.grad.conv2d_input(x.shape, w, dy, **layer.options)
    return torch.nn.grad.conv2d_weight(x, w.shape, dy, **layer.options)


def autograd_call(layer: Layer, pass_name: str, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    """One gradient by the operator that torch's backward pass runs, which sees both operands' layouts."""
    mask = [pass_name == "input_grad", pass_name == "weight_grad", False]
    geometry = (layer.stride, layer.padding, (1, 1), False, (0, 0), layer.groups)
    return torch.ops.aten.convolution_backward(dy, x, w, None, *geometry, mask)[0 if mask[0] else 1]


def torch_settings(layer: Layer, pass_name: str, arrays: Arrays) -> Settings:
    """Both memory formats, and for gradients both doors."""
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    doors = {"torch": torch_call} if pass_name == "forward" else {"torch": torch_call, "autograd": autograd_call}
    settings: Settings = {}
    for format_name, memory_format in formats.items():
        tensors = [torch.from_numpy(arrays[name]).contiguous(memory_format=memory_format) for name in ("x", "w", "dy")]
        for door, call in doors.items():
            settings[f"{door} {format_name}"] = lambda call=call, tensors=tensors: call(layer, pass_name, *tensors)
    return settings


def scipy_settings(layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> Settings:
    """Overlap-add in one thread and in all; a single plane with stride 1 only: others need sums that scipy lacks."""
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


def settings(layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> dict[str, Settings]:
    """Every peer that can compute the layer, with its settings."""
    offered = {
        "torch": torch_settings(layer, pass_name, arrays),
        "scipy": scipy_settings(layer, pass_name, arrays, threads),
    }
    return {peer: calls for peer, calls in offered.items() if calls}
