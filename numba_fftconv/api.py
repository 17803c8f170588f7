"""The doors: each checks its arguments once, finds the plan, and runs one pass of it, or all three.

The checks come in this order: is it an array, its dtype, one dtype for all, the geometry, the options. A call that
raises has changed nothing. Every door takes arrays of NumPy, torch, CuPy, Numba or any library that speaks DLPack or
the CUDA array interface, all of them on one device, as they lie in memory, and gives its result in the library of its
first array argument. Arrays in host memory run on the CPU engine; arrays on an NVIDIA GPU run there, on the stream that
is current in that library, and the call returns before they are done. Letters: input x[N,C,H,W], weight
w[K,C/groups,R,S], output y[N,K,P,Q]; without a batch, input and output are [C,H,W] and [K,P,Q].
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from . import options
from .arrays import check_devices, dtype_name, like, view
from .errors import InvalidShapeError, InvalidTypeError, PlanMismatchError
from .geometry import ConvGeometry, of_layer
from .options import Layer
from .passes import FORWARD, INPUT_GRAD, WEIGHT_GRAD
from .plan import ConvPlan, Operands
from .spectral import SpectralWeight


class Options(NamedTuple):
    """The options of a layer, as the caller wrote them."""

    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: Any = 1


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, *,
    precision: str | None = None, plan: ConvPlan | None = None, out: Any = None, stream: Any = None,
    workspace: Any = None,
) -> Any:  # fmt: skip
    """Convolve every image with every filter: the forward pass of a layer.

    Parameters
    ----------
    input : array [N, C, H, W] or [C, H, W] of float16, bfloat16, float32 or, on a CPU, float64. The two halves are
        computed in float32, and the result is rounded once.
    weight : array [K, C/groups, R, S] of the same dtype, at most 256 a side after dilation; or a SpectralWeight.
    bias : array [K] of the same dtype, added to the K planes of the output.
    stride, dilation : int or (rows, columns), in samples.
    padding : zeros around the input, in samples: int, (rows, columns), ((top, bottom), (left, right)), 'valid', 'same'.
    groups : int that divides both C and K.
    precision : arithmetic of the multiply stage; None is the dtype's own. On a GPU 'fp32', or on tensor cores 'tf32x3'
        (as accurate), 'bf16x3' (errors of about 5e-6), 'tf32' (3e-4); on a CPU all of them run as 'fp32'.
    plan : a plan of plan_conv2d for these shapes; what is left at its default is taken from it.
    out : array of the result's shape and dtype to write into.
    stream : of arrays on a GPU: a stream of torch, CuPy, Numba or cuda.core, or its handle; None is the current one of
        the library of the first array. None on a CPU.
    workspace : contiguous array of plan.workspace_size bytes to work in, on the device of the other arrays.

    Returns
    -------
    Array [N, K, P, Q] or [K, P, Q] of the same dtype, in the library of `input`; or `out`, where it is given.

    Raises
    ------
    InvalidShapeError, InvalidOptionError, InvalidTypeError, UnsupportedError, WorkspaceError, DeviceMismatchError,
    PlanMismatchError

    Examples
    --------
    >>> import numpy as np
    >>> image = np.zeros((1, 1, 5, 5), np.float32)
    >>> image[0, 0, 2, 2] = 1
    >>> filters = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    >>> np.rint(conv2d(image, filters)[0, 0]).astype(int)
    array([[8, 7, 6],
           [5, 4, 3],
           [2, 1, 0]])
    >>> conv2d(image.astype(np.float16), filters.astype(np.float16)).dtype
    dtype('float16')

    Source: torch.nn.functional.conv2d; Mathieu, Henaff, LeCun, arXiv 1312.5851.
    """
    given = {"input": input, "weight": weight} | ({} if bias is None else {"bias": bias})
    plan, read = _prepare(given, {}, Options(stride, padding, dilation, groups), plan, precision)
    result = plan.run(FORWARD, read, out, stream, workspace)
    return like(result, input) if out is None else out


def conv2d_input_grad(
    input_size: Iterable[int], weight: Any, grad_output: Any,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, *,
    precision: str | None = None, plan: ConvPlan | None = None, out: Any = None, stream: Any = None,
    workspace: Any = None,
) -> Any:  # fmt: skip
    """Compute the gradient of conv2d with respect to its input.

    Parameters
    ----------
    input_size : shape of the input, (N, C, H, W) or (C, H, W), in samples.
    weight : array [K, C/groups, R, S] of a dtype that conv2d takes, or a SpectralWeight.
    grad_output : array [N, K, P, Q] or [K, P, Q] of the same dtype, the gradient with respect to the output.
    stride, padding, dilation, groups, precision, plan, out, stream, workspace : as in conv2d.

    Returns
    -------
    Array of shape `input_size` and the same dtype, in the library of `weight` (of `grad_output` where `weight` is a
    SpectralWeight); or `out`, where it is given.

    Raises
    ------
    InvalidShapeError, InvalidOptionError, InvalidTypeError, UnsupportedError, WorkspaceError, DeviceMismatchError,
    PlanMismatchError

    Examples
    --------
    >>> import numpy as np
    >>> filters = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    >>> np.rint(conv2d_input_grad((1, 3, 3), filters, np.ones((1, 2, 2), np.float32))[0]).astype(int)
    array([[0, 1, 1],
           [2, 6, 4],
           [2, 5, 3]])

    Source: torch.nn.grad.conv2d_input; Mathieu, Henaff, LeCun, arXiv 1312.5851.
    """
    given = {"weight": weight, "grad_output": grad_output}
    layer_options = Options(stride, padding, dilation, groups)
    plan, read = _prepare(given, {"input": input_size}, layer_options, plan, precision)
    result = plan.run(INPUT_GRAD, read, out, stream, workspace)
    return like(result, grad_output if isinstance(weight, SpectralWeight) else weight) if out is None else out


def conv2d_weight_grad(
    input: Any, weight_size: Iterable[int], grad_output: Any,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, *,
    precision: str | None = None, plan: ConvPlan | None = None, out: Any = None, stream: Any = None,
    workspace: Any = None,
) -> Any:  # fmt: skip
    """Compute the gradient of conv2d with respect to its weight.

    Parameters
    ----------
    input : array [N, C, H, W] or [C, H, W] of a dtype that conv2d takes.
    weight_size : shape of the weight, (K, C/groups, R, S), in samples.
    grad_output : array [N, K, P, Q] or [K, P, Q] of the same dtype, the gradient with respect to the output.
    stride, padding, dilation, groups, precision, plan, out, stream, workspace : as in conv2d.

    Returns
    -------
    Array of shape `weight_size` and the same dtype, in the library of `input`; or `out`, where it is given.

    Raises
    ------
    InvalidShapeError, InvalidOptionError, InvalidTypeError, UnsupportedError, WorkspaceError, DeviceMismatchError,
    PlanMismatchError

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    >>> np.rint(conv2d_weight_grad(image, (1, 1, 2, 2), np.ones((1, 2, 2), np.float32))[0, 0]).astype(int)
    array([[ 8, 12],
           [20, 24]])

    Source: torch.nn.grad.conv2d_weight; Mathieu, Henaff, LeCun, arXiv 1312.5851.
    """
    given = {"input": input, "grad_output": grad_output}
    layer_options = Options(stride, padding, dilation, groups)
    plan, read = _prepare(given, {"weight": weight_size}, layer_options, plan, precision)
    result = plan.run(WEIGHT_GRAD, read, out, stream, workspace)
    return like(result, input) if out is None else out


def conv2d_backward(
    grad_output: Any, input: Any, weight: Any,
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, *,
    output_mask: tuple[bool, bool, bool] = (True, True, True), precision: str | None = None,
    plan: ConvPlan | None = None, stream: Any = None, workspace: Any = None,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Compute the gradients of conv2d with respect to its input, its weight and its bias.

    Parameters
    ----------
    grad_output : array [N, K, P, Q] or [K, P, Q] of a dtype that conv2d takes, the gradient with respect to the output.
    input : array [N, C, H, W] or [C, H, W] of the same dtype.
    weight : array [K, C/groups, R, S] of the same dtype, or a SpectralWeight.
    output_mask : which of the three gradients are wanted.
    stride, padding, dilation, groups, precision, plan, stream, workspace : as in conv2d.

    Returns
    -------
    Arrays of the shapes of `input`, `weight` and bias [K], in the library of `grad_output`; None where not wanted.

    Raises
    ------
    InvalidShapeError, InvalidOptionError, InvalidTypeError, UnsupportedError, WorkspaceError, DeviceMismatchError,
    PlanMismatchError

    Examples
    --------
    >>> import numpy as np
    >>> image, filters = np.ones((1, 3, 3), np.float32), np.ones((1, 1, 2, 2), np.float32)
    >>> dx, dw, db = conv2d_backward(np.ones((1, 2, 2), np.float32), image, filters, output_mask=(False, True, True))
    >>> dx is None, np.rint(dw).astype(int).tolist(), db.tolist()
    (True, [[[[4, 4], [4, 4]]]], [4.0])

    Source: torch.ops.aten.convolution_backward; Mathieu, Henaff, LeCun, arXiv 1312.5851.
    """
    given = {"grad_output": grad_output, "input": input, "weight": weight}
    plan, read = _prepare(given, {}, Options(stride, padding, dilation, groups), plan, precision)
    dx, dw, db = plan.run_backward(read, output_mask, stream, workspace)
    return like(dx, grad_output), like(dw, grad_output), like(db, grad_output)


def plan_conv2d(
    input_shape: Iterable[int], weight_shape: Iterable[int], *, dtype: Any = "float32",
    stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, precision: str | None = None,
    fft_size: Any = None, workspace_limit: int | None = None, device: str | None = None, tuning: Any = None,
) -> ConvPlan:  # fmt: skip
    """Plan the three passes of a layer, without running anything.

    Parameters
    ----------
    input_shape : (N, C, H, W) or (C, H, W), in samples.
    weight_shape : (K, C/groups, R, S), in samples.
    dtype : of the arrays: 'float16', 'bfloat16', 'float32' or 'float64', or such a dtype of NumPy, torch or ml_dtypes.
    stride, padding, dilation, groups : as in conv2d.
    precision : arithmetic of the multiply stage; None is the dtype's own. On a GPU 'fp32', or on tensor cores 'tf32x3'
        (as accurate), 'bf16x3' (errors of about 5e-6), 'tf32' (3e-4); on a CPU all of them run as 'fp32'.
    fft_size : transform length, an even product of 2, 3, 5, 7 up to 64, or 128 or 256; or two of them, (rows, columns).
        None chooses the fastest for the three passes together by a cost model, as the functions do.
    workspace_limit : bytes that the workspace may take; the passes then work through the images in chunks, at the
        transform length of the plan without a limit where that fits, and so with the same bits.
    device : 'cpu', which None is; 'cuda', the current GPU, or 'cuda:1'; or 'sm_80', 'sm_86', 'sm_89', 'sm_90': such a
        plan can be read, not run, and needs no GPU. A plan runs arrays of its own device only.
    tuning : on a GPU, True or the path of a tuning file: the size and kernels that `ConvPlan.tune` has found there for
        this layer and device; None leaves them to the models.

    Returns
    -------
    ConvPlan, with forward, input_grad, weight_grad, backward, transform_weight and explain.

    Raises
    ------
    InvalidShapeError, InvalidOptionError, InvalidTypeError, UnsupportedError, WorkspaceError

    Examples
    --------
    >>> plan = plan_conv2d((16, 64, 32, 32), (64, 64, 5, 5), padding=2, fft_size=36, device="cpu")
    >>> plan.fft_size, plan.geometry.output_shape, plan.segments["forward"]
    ((36, 36), (16, 64, 32, 32), (1, 1))

    Source: the planner of FFTW; Mathieu, Henaff, LeCun, arXiv 1312.5851.
    """
    geometry = ConvGeometry.from_arguments(input_shape, weight_shape, stride, padding, dilation, groups)
    return ConvPlan.build(geometry, dtype, precision, fft_size, workspace_limit, device, tuning)


def _prepare(
    given: Mapping[str, Any], sizes: Mapping[str, Any], written: Options, plan: ConvPlan | None, precision: Any
) -> tuple[ConvPlan, Operands]:
    """The plan of a call, and its arrays checked against each other; `sizes` holds the shape that no array says."""
    weight = given.get("weight")
    spectral = weight if isinstance(weight, SpectralWeight) else None
    read = {name: view(value, name) for name, value in given.items() if spectral is None or name != "weight"}
    dtype = _common_dtype(read)
    check_devices(read if spectral is None else {**read, "weight": spectral})
    device = next(iter(read.values())).device
    shapes: dict[str, Any] = {**{name: array.shape for name, array in read.items()}, **sizes}
    if spectral is not None:
        shapes["weight"] = spectral.weight_shape
    if plan is not None:
        written = _completed(written, plan)
    layer = options.layer(shapes["input"], shapes["weight"], *written)
    if plan is not None:
        _check_plan(plan, layer, dtype, precision)
    elif spectral is None:
        plan = ConvPlan.build(of_layer(layer), dtype, precision, device=device)
    else:
        spectral.require("this call", dtype=dtype, dilation=layer.dilation, groups=layer.groups)
        plan = ConvPlan.build(of_layer(layer), dtype, precision, spectral.fft_size, device=device)
    for name, shape in (("bias", (plan.geometry.K,)), ("grad_output", plan.geometry.output_shape)):
        if name in read and read[name].shape != shape:
            raise InvalidShapeError(f"{name} has shape {shapes[name]}: it must be {shape} here")
    return plan, read if spectral is None else {**read, "weight": spectral}


def _common_dtype(read: Mapping[str, Any]) -> str:
    """The dtype of all arrays; that of a SpectralWeight is the plan's affair."""
    dtypes = {name: dtype_name(array, name) for name, array in read.items()}
    if len(set(dtypes.values())) > 1:
        said = ", ".join(f"{name} has dtype {dtype}" for name, dtype in dtypes.items())
        raise InvalidTypeError(f"{said}: all arrays must have one dtype, convert them to float32 or to float64")
    return next(iter(dtypes.values()))


def _completed(written: Options, plan: ConvPlan) -> Options:
    """The options of a call that brings a plan: what is left at its default is taken from the plan."""
    if not isinstance(plan, ConvPlan):
        raise InvalidTypeError(f"plan is {plan!r}: it must be a ConvPlan, which plan_conv2d makes")
    made = Options(*plan.geometry.layer[2:])
    triples = zip(written, Options(), made, strict=True)
    return Options(*[ours if type(value) is int and value == default else value for value, default, ours in triples])


def _check_plan(plan: ConvPlan, layer: Layer, dtype: str, precision: Any) -> None:
    """Raise PlanMismatchError where a plan is not for this call."""
    mode = plan.precision if precision is None else options.precision(precision, dtype)
    call, made = (*layer, dtype, mode), (*plan.geometry.layer, plan.dtype, plan.precision)
    if call != made:
        names = (*Layer._fields, "dtype", "precision")
        triples = zip(names, call, made, strict=True)
        said = ", ".join(f"{name} is {ours!r} and the plan has {its!r}" for name, ours, its in triples if ours != its)
        raise PlanMismatchError(f"{said}: make a plan for this call with plan_conv2d")
