"""conv2d as operators of torch: what they compute, and of what shape that is.

    numba_fftconv::conv2d(x, w, bias, ...) -> y
    numba_fftconv::conv2d_saving(x, w, bias, ..., save, save_limit) -> y, X, W        spectra that are worth keeping
    numba_fftconv::conv2d_backward(dy, x, w, ..., output_mask, X, W) -> dx, dw, db    None where the mask has False

Each has two kernels. The one runs a plan of the package on the tensors as they lie, in host memory or on the current
stream of their GPU. The other makes an empty tensor of the right shape for whoever traces or asks on the meta device;
that shape is plain arithmetic of the geometry, whose sizes may be symbols. Results are contiguous. Derivatives are in
derivatives.py, the rules of vmap in batching.py.

Spectra are bytes in torch's memory, none where a spectrum is not kept. What conv2d_backward does not find it
transforms, dy once for both gradients where the plan can share it.

Source: torch.library; torch.nn.functional.conv2d and torch.ops.aten.convolution_backward for the arguments.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import dtypes, options
from ..errors import DeviceMismatchError, InvalidShapeError, InvalidTypeError
from ..geometry import ConvGeometry, fitted, of_layer
from ..plan import ConvPlan

NAMES = {getattr(torch, name): name for name in dtypes.NUMPY}  # of dtypes

LIBRARY = torch.library.Library("numba_fftconv", "DEF")
LAYER = "SymInt[2] stride, SymInt[4] padding, SymInt[2] dilation, SymInt groups"
TAGS = (torch.Tag.pt2_compliant_tag,)
LIBRARY.define(f"conv2d(Tensor input, Tensor weight, Tensor? bias, {LAYER}) -> Tensor", tags=TAGS)
LIBRARY.define(
    f"conv2d_saving(Tensor input, Tensor weight, Tensor? bias, {LAYER}, str save, SymInt? save_limit)"
    " -> (Tensor, Tensor, Tensor)",
    tags=TAGS,
)
LIBRARY.define(
    f"conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, {LAYER}, bool[3] output_mask,"
    " Tensor? input_spectrum=None, Tensor? weight_spectrum=None) -> (Tensor, Tensor, Tensor)",
    tags=TAGS,
)
SAVING = torch.ops.numba_fftconv.conv2d_saving.default
FORWARD, BACKWARD = torch.ops.numba_fftconv.conv2d.default, torch.ops.numba_fftconv.conv2d_backward.default


# ---- what fits together ----------------------------------------------------------------------------------------------


def _check(**tensors: Tensor) -> None:
    """Raise where tensors are not dense, of one dtype that a layer can have, and on one device."""
    first = next(iter(tensors.values()))
    dtype, device = first.dtype, first.device
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided:
            raise InvalidTypeError(f"{name} is a tensor of layout {tensor.layout}: pass {name}.to_dense()")
        if tensor.dtype not in NAMES:
            raise InvalidTypeError(f"{name} has dtype {tensor.dtype}: it must be {dtypes.ANY}")
        if tensor.dtype != dtype:
            said = ", ".join(f"{name} has dtype {tensor.dtype}" for name, tensor in tensors.items())
            raise InvalidTypeError(f"{said}: all tensors must have one dtype, convert them to float32 or to float64")
        if tensor.device != device:
            said = ", ".join(f"{name} is on {tensor.device}" for name, tensor in tensors.items())
            raise DeviceMismatchError(f"{said}: all tensors must be on one device, move them there")
    if device.type == "cuda":
        options.on_gpu(NAMES[dtype])


def geometry(images: Sequence[Any], kernel: Sequence[Any], *layer: Any) -> ConvGeometry:
    """Of sizes that may be symbols of a tracer: these are no keys of a cache, and to compare them would fix them."""
    stride, (top, bottom, left, right), dilation, groups = layer
    padding = (top, bottom), (left, right)
    ranks_fit = len(images) in (3, 4) and len(kernel) == 4
    if ranks_fit and not all(type(n) is int for n in (*images, *kernel)):
        return fitted(options.Layer(tuple(images), tuple(kernel), tuple(stride), padding, tuple(dilation), groups))
    return of_layer(options.layer(images, kernel, stride, padding, dilation, groups))


@lru_cache(1024)
def plan_of(
    images: tuple[int, ...], kernel: tuple[int, ...], dtype: torch.dtype, device: torch.device, *layer: Any
) -> ConvPlan:  # fmt: skip
    """The plan of a layer for tensors of these shapes; all are found here again, so the arguments must be hashable."""
    return ConvPlan.build(geometry(images, kernel, *layer), NAMES[dtype], device=str(device))


@lru_cache(1024)
def _spectrum_bytes(plan: ConvPlan, save: str, save_limit: int | None) -> tuple[int, ...]:
    kept = plan.kept(save, save_limit)
    return tuple(plan.spectrum_size[name] if name in kept else 0 for name in ("input", "weight"))


def _plan(input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> ConvPlan:
    layer = tuple(stride), tuple(padding), tuple(dilation), groups
    return plan_of(input.shape, weight.shape, input.dtype, input.device, *layer)


# ---- kernels ---------------------------------------------------------------------------------------------------------


def _named(input: Tensor, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """The operands of conv2d that are given, by the caller's names."""
    given = {"input": input, "weight": weight}
    return given if bias is None else {**given, "bias": bias}


def _forward(input: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> Tensor:
    given = _named(input, weight, bias)
    _check(**given)
    plan = _plan(input, weight, *layer)
    out = input.new_empty(plan.geometry.output_shape)
    return plan.forward(*map(_samples, given.values()), out=out)


def _samples(tensor: Tensor) -> Tensor:
    """What the package reads, which refuses tensors whose gradient would be lost."""
    return tensor.detach() if tensor.requires_grad else tensor


def _saving(input: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> tuple[Tensor, ...]:
    given = _named(input, weight, bias)
    _check(**given)
    plan, (X, W) = _plan(input, weight, *layer[:4]), _spectra(input, weight, *layer)
    x, w, *rest = map(_samples, given.values())
    operands = plan.transform_input(x, out=X) if X.numel() else x, plan.transform_weight(w, out=W) if W.numel() else w
    out = input.new_empty(plan.geometry.output_shape)
    return plan.forward(*operands, *rest, out=out), X, W


def _saving_shape(input: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> tuple[Tensor, ...]:
    return _forward_shape(input, weight, bias, *layer[:4]), *_spectra(input, weight, *layer)


def _spectra(
    input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int, save: str, limit: int | None
) -> list[Tensor]:
    """Memory for both spectra, none for one that is not kept; of a tracer to which sizes are symbols, of some size."""
    if input.device.type not in ("cpu", "cuda"):
        sizes: Any = 0, 0
    elif all(type(n) is int for n in (*input.shape, *weight.shape)):
        sizes = _spectrum_bytes(_plan(input, weight, stride, padding, dilation, groups), save, limit)
    else:
        context = torch.library.get_ctx()
        sizes = context.new_dynamic_size(), context.new_dynamic_size()
    return [input.new_empty(size, dtype=torch.uint8) for size in sizes]


def _forward_shape(input: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> Tensor:
    _check(**_named(input, weight, bias))
    made = geometry(input.shape, weight.shape, *layer)
    if bias is not None and bias.shape != (made.K,):
        raise InvalidShapeError(f"bias has shape {tuple(bias.shape)}: it must be {(made.K,)} here")
    return input.new_empty(made.output_shape)


def _backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int,
    mask: Any, input_spectrum: Tensor | None = None, weight_spectrum: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    _check(grad_output=grad_output, input=input, weight=weight)
    plan = _plan(input, weight, stride, padding, dilation, groups)
    operands: list[Any] = []
    for name, planes, spectrum in (("input", input, input_spectrum), ("weight", weight, weight_spectrum)):
        is_kept = spectrum is not None and spectrum.numel()
        operands.append(plan.read_spectrum(name, spectrum, _samples(planes)) if is_kept else _samples(planes))
    return plan.backward(_samples(grad_output), *operands, output_mask=mask)


def _backward_shape(
    grad_output: Tensor, input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int,
    mask: Any, input_spectrum: Tensor | None = None, weight_spectrum: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    _check(grad_output=grad_output, input=input, weight=weight)
    shapes = input.shape, weight.shape, (weight.shape[0],)
    return tuple(input.new_empty(shape) if wanted else None for shape, wanted in zip(shapes, mask, strict=True))


KERNELS: dict[Any, Callable[..., Any]] = {FORWARD: _forward, SAVING: _saving, BACKWARD: _backward}
for operator, kernel in KERNELS.items():
    LIBRARY.impl(operator._opname, kernel, "CompositeExplicitAutograd")
torch.library.register_fake("numba_fftconv::conv2d", _forward_shape, lib=LIBRARY)
torch.library.register_fake("numba_fftconv::conv2d_saving", _saving_shape, lib=LIBRARY)
torch.library.register_fake("numba_fftconv::conv2d_backward", _backward_shape, lib=LIBRARY)
