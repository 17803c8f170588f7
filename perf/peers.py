"""What numba_fftconv is held against, in every setting worth trying: torch (oneDNN) and scipy.signal.oaconvolve.

On a GPU they are torch (cuDNN), without and with TF32, and the composition of torch.fft: gpu.py chooses.

A setting is a call without arguments, its operands prepared beforehand in the layout that suits it: the peer pays for
no conversion, padding or flip.  The better setting of a peer is the one that it is timed with.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
import scipy.signal
import torch
from layers import Layer

Arrays = dict[str, Any]  # x, w and dy, of NumPy or of torch
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
        tensors = [torch.as_tensor(arrays[name]).contiguous(memory_format=memory_format) for name in ("x", "w", "dy")]
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


def fft_settings(layer: Layer, pass_name: str, x: torch.Tensor, w: torch.Tensor, dy: torch.Tensor) -> Settings:
    """Whole planes by torch.fft and a sum by einsum; stride 1 only: other strides need copies with zeros between."""
    if layer.stride != (1, 1):
        return {}
    (top, left), groups = layer.padding, layer.groups
    extents = layer.H + 2 * top, layer.W + 2 * left
    lengths = tuple(scipy.fft.next_fast_len(extent, real=True) for extent in extents)

    def spectrum(planes: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(planes, s=lengths)

    def grouped(planes: torch.Tensor, axis: int) -> torch.Tensor:
        return planes.unflatten(axis, (groups, -1))

    def padded() -> torch.Tensor:
        return torch.nn.functional.pad(x, (left, left, top, top)) if top or left else x

    def forward() -> torch.Tensor:
        X, W = grouped(spectrum(padded()), 1), grouped(spectrum(w), 0)
        y = torch.fft.irfft2(torch.einsum("ngchw,gkchw->ngkhw", X, W.conj()).flatten(1, 2), s=lengths)
        return y[..., : dy.shape[-2], : dy.shape[-1]]

    def input_grad() -> torch.Tensor:
        Y, W = grouped(spectrum(dy), 1), grouped(spectrum(w), 0)
        dx = torch.fft.irfft2(torch.einsum("ngkhw,gkchw->ngchw", Y, W).flatten(1, 2), s=lengths)
        return dx[..., top : top + layer.H, left : left + layer.W]

    def weight_grad() -> torch.Tensor:
        X, Y = grouped(spectrum(padded()), 1), grouped(spectrum(dy), 1)
        dw = torch.fft.irfft2(torch.einsum("ngkhw,ngchw->gkchw", Y.conj(), X).flatten(0, 1), s=lengths)
        return dw[..., : layer.R, : layer.S]

    return {"rfft2, einsum": {"forward": forward, "input_grad": input_grad, "weight_grad": weight_grad}[pass_name]}


def settings(layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> dict[str, Settings]:
    """Every peer on a CPU that can compute the layer, with its settings."""
    offered = {
        "torch": torch_settings(layer, pass_name, arrays),
        "scipy": scipy_settings(layer, pass_name, arrays, threads),
    }
    return {peer: calls for peer, calls in offered.items() if calls}
