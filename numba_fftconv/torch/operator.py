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

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import dtypes, options
from ..errors import DeviceMismatchError, InvalidShapeError, InvalidTypeError
from ..geometry import ConvGeometry, fitted, of_layer
from ..plan import ConvPlan

NAMES = {getattr(torch, name): name for name in dtypes.NUMPY}  # of dtypes
AUTOCAST_DEVICES = ("cpu", "cuda")
CAST = set(NAMES) - {torch.float64}  # what autocast casts

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


def conv2d(
    input: Tensor, weight: Tensor, bias: Tensor | None = None,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, *,
    save: str = "none", save_limit: int | None = None,
) -> Tensor:  # fmt: skip
    """Convolve every image with every filter by FFT: torch.nn.functional.conv2d, with its derivatives of any order.

    Parameters
    ----------
    input : tensor [N, C, H, W] or [C, H, W] of float16, bfloat16, float32 or, on a CPU, float64; of any strides. The
        two halves are computed in float32, and the result is rounded once.
    weight : tensor [K, C/groups, R, S] of the same dtype, at most 256 a side after dilation.
    bias : tensor [K] of the same dtype, added to the K planes of the output.
    stride, dilation : int or (rows, columns), in samples.
    padding : zeros around the input, in samples: int, (rows, columns), ((top, bottom), (left, right)), 'valid', 'same'.
    groups : int that divides both C and K.
    save : which spectra may be kept for backward, in place of transforming again: 'none', 'input', 'weight' or 'all'.
        Kept are those that save time there (`ConvPlan.kept`); the results have the same bits.
    save_limit : bytes that they may take, or None.

    Under torch.autocast tensors are cast first, as those of torch.nn.functional.conv2d are.

    Returns
    -------
    Contiguous tensor [N, K, P, Q] or [K, P, Q] of the same dtype and device. On a GPU it is queued on the current
    stream, and its memory is of torch's allocator.

    Raises
    ------
    InvalidShapeError, InvalidOptionError, InvalidTypeError, UnsupportedError, WorkspaceError, DeviceMismatchError

    Examples
    --------
    >>> image = torch.zeros(1, 1, 5, 5)
    >>> image[0, 0, 2, 2] = 1
    >>> filters = torch.arange(9.0).reshape(1, 1, 3, 3).requires_grad_()
    >>> y = conv2d(image, filters)
    >>> y[0, 0].round().int().tolist()
    [[8, 7, 6], [5, 4, 3], [2, 1, 0]]
    >>> torch.autograd.grad(y[0, 0, 0, 0], filters)[0].round().int()[0, 0].tolist()
    [[0, 0, 0], [0, 0, 0], [0, 0, 1]]

    Source: torch.nn.functional.conv2d; Mathieu, Henaff, LeCun, arXiv 1312.5851.
    """
    for name, value in (("input", input), ("weight", weight)):
        if not isinstance(value, Tensor):
            raise InvalidTypeError(f"{name} is a {type(value)}: it must be a tensor; numba_fftconv.conv2d takes arrays")
    layer = read(weight.shape, stride, padding, dilation, groups)
    tensors, useful = autocast(input.device.type, input, weight, bias), _useful(input, weight, save)
    return SAVING(*tensors, *layer, useful, save_limit)[0] if useful != "none" else FORWARD(*tensors, *layer)


def _useful(input: Tensor, weight: Tensor, save: str) -> str:
    """What of a policy a backward pass can use: dw reads the input, and dx the weight."""
    is_read = {"input": weight.requires_grad, "weight": input.requires_grad}
    names = tuple([name for name in options.save(save) if torch.is_grad_enabled() and is_read[name]])
    return next(word for word, allowed in options.SAVES.items() if allowed == names)


def read(
    kernel: Sequence[int], stride: Any, padding: Any, dilation: Any, groups: int
) -> tuple[options.Pair, tuple[int, int, int, int], options.Pair, int]:
    """The options of a layer with a kernel of this shape as the operators take them, whatever forms they have."""
    strides, dilations = options.pair(stride, "stride", stride), options.pair(dilation, "dilation", dilation)
    (top, bottom), (left, right) = options.pads(padding, kernel[2:], strides, dilations)
    return strides, (top, bottom, left, right), dilations, groups


def autocast(device: str, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Tensors as torch.autocast wants those of a convolution on a device: all of its dtype, but for float64."""
    if device not in AUTOCAST_DEVICES or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple([tensor.to(dtype) if tensor is not None and tensor.dtype in CAST else tensor for tensor in tensors])


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


def _forward(input: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> Tensor:
    given = {"input": input, "weight": weight} | ({} if bias is None else {"bias": bias})
    _check(**given)
    plan = _plan(input, weight, *layer)
    out = input.new_empty(plan.geometry.output_shape)
    return plan.forward(*(tensor.detach() for tensor in given.values()), out=out)


def _saving(input: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any) -> tuple[Tensor, ...]:
    given = {"input": input, "weight": weight} | ({} if bias is None else {"bias": bias})
    _check(**given)
    plan, (X, W) = _plan(input, weight, *layer[:4]), _spectra(input, weight, *layer)
    x, w, *rest = (tensor.detach() for tensor in given.values())
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
    _check(**{"input": input, "weight": weight} | ({} if bias is None else {"bias": bias}))
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
        operands.append(plan.read_spectrum(name, spectrum, planes.detach()) if is_kept else planes.detach())
    return plan.backward(grad_output.detach(), *operands, output_mask=mask)


def _backward_shape(
    grad_output: Tensor, input: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int,
    mask: Any, input_spectrum: Tensor | None = None, weight_spectrum: Tensor | None = None,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    _check(grad_output=grad_output, input=input, weight=weight)
    shapes = input.shape, weight.shape, (weight.shape[0],)
    return tuple(input.new_empty(shape) if wanted else None for shape, wanted in zip(shapes, mask, strict=True))


LIBRARY.impl("conv2d", _forward, "CompositeExplicitAutograd")
LIBRARY.impl("conv2d_saving", _saving, "CompositeExplicitAutograd")
LIBRARY.impl("conv2d_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("numba_fftconv::conv2d", _forward_shape, lib=LIBRARY)
torch.library.register_fake("numba_fftconv::conv2d_saving", _saving_shape, lib=LIBRARY)
torch.library.register_fake("numba_fftconv::conv2d_backward", _backward_shape, lib=LIBRARY)
