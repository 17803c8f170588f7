"""torch as a peer: its convolutions in both memory formats and by both doors to the gradients, and torch.fft."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from layers import Layer
from peers import Arrays, Settings

PRIMES = (2, 3, 5, 7)  # lengths that FFT libraries are fast at have no other factors


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


def convolutions(layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> Settings:
    """Both memory formats, and for gradients both doors."""
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    doors = {"torch": torch_call} if pass_name == "forward" else {"torch": torch_call, "autograd": autograd_call}
    settings: Settings = {}
    for (format_name, memory_format), (door, call) in product(formats.items(), doors.items()):
        tensors = [torch.as_tensor(arrays[name]).contiguous(memory_format=memory_format) for name in ("x", "w", "dy")]
        settings[f"{door} {format_name}"] = lambda call=call, tensors=tensors: call(layer, pass_name, *tensors)
    return settings


def with_tf32(layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> Settings:
    """The convolutions with TF32 allowed to cuDNN while a call lasts; float32 only."""
    if layer.dtype != "float32":
        return {}
    calls = convolutions(layer, pass_name, arrays, threads)
    return {f"tf32 {name}": lambda call=call: allowing_tf32(call) for name, call in calls.items()}


def allowing_tf32(call: Callable[[], object]) -> object:
    torch.backends.cudnn.allow_tf32 = True
    try:
        return call()
    finally:
        torch.backends.cudnn.allow_tf32 = False


def fast_length(extent: int) -> int:
    """The least length from `extent` on with no prime factors but PRIMES."""
    rest = extent
    for prime in PRIMES:
        while rest % prime == 0:
            rest //= prime
    return extent if rest == 1 else fast_length(extent + 1)


def fourier(layer: Layer, pass_name: str, arrays: Arrays, threads: int) -> Settings:
    """Whole planes by torch.fft and a sum by einsum; stride 1 only: other strides need copies with zeros between."""
    if layer.stride != (1, 1):
        return {}
    x, w, dy = (torch.as_tensor(arrays[name]) for name in ("x", "w", "dy"))
    (top, left), groups = layer.padding, layer.groups
    lengths = fast_length(layer.H + 2 * top), fast_length(layer.W + 2 * left)

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
