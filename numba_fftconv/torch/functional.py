"""conv2d as a function: torch.nn.functional.conv2d by FFT.

What a caller writes is read into the numbers that the operators take, and cast as torch.autocast asks; the rest is
theirs (operator.py, derivatives.py).

Source: torch.nn.functional.conv2d.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import options
from ..errors import InvalidTypeError
from .derivatives import call
from .operator import FORWARD, NAMES, SAVING

AUTOCAST_DEVICES = ("cpu", "cuda")
CAST = set(NAMES) - {torch.float64}  # what autocast casts


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
    given = *autocast(input.device.type, input, weight, bias), *read(weight.shape, stride, padding, dilation, groups)
    useful = _useful(input, weight, save)
    if useful == "none":
        result: Tensor = call(FORWARD, *given)
    else:
        result, *_ = call(SAVING, *given, useful, save_limit)
    return result


def _useful(input: Tensor, weight: Tensor, save: str) -> str:
    """What of a policy a backward pass can use: dw reads the input, and dx the weight."""
    if save == "none":
        return save
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
