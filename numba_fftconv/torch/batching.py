"""The rules of vmap: a batch of convolutions is one convolution of a layer that is larger.

    batched               goes into        x                   w                     y
    images alone          the images       [B*N, C, H, W]      as it is              [B*N, K, P, Q]
    weights alone         the filters      as it is            [g*B*K/g, C/g, R, S]  [N, g*B*K/g, P, Q]
    images and weights    the groups       [N, B*C, H, W]      [B*K, C/g, R, S]      [N, B*K, P, Q]

So each plane is transformed as often as it has to be. Of the gradients that of the input goes into the images where the
weight is one for all; the rest goes into the groups. Per-sample gradients, vmap(grad(...)), are that case.

Source: torch.vmap's own rules of convolution have the same three cases.
"""

from typing import Any

import torch
from torch import Tensor

from .operator import BACKWARD, FORWARD, LIBRARY, SAVING


def _first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """The batch as the first axis; of a tensor that has none, a view that repeats it."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _with_images(tensor: Tensor) -> Tensor:
    """[B, N, C, H, W] of planes that may have no axis of images."""
    return tensor if tensor.dim() == 5 else tensor.unsqueeze(1)


def _into_channels(planes: Tensor) -> Tensor:
    """[B, N, C, H, W] as [N, B*C, H, W]."""
    return _with_images(planes).transpose(0, 1).flatten(1, 2)


def _out_of_channels(planes: Tensor, size: int, dim: int) -> Tensor:
    """The reverse, to as many axes as the batch has with images or without."""
    apart = planes.unflatten(1, (size, -1)).transpose(0, 1)
    return apart if dim == 5 else apart.squeeze(1)


def _forward_rule(
    info: Any, in_dims: tuple[Any, ...], input: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any
) -> tuple[Tensor, int]:
    (of_input, of_weight, of_bias), size, (*rest, groups) = in_dims[:3], info.batch_size, layer
    if bias is not None and of_bias is not None:  # of a dtype that is rounded once more here
        y, _ = _forward_rule(info, (of_input, of_weight, None), input, weight, None, *layer)
        return y + _first(bias, of_bias, size).view(size, *[1] * (y.dim() - 4), -1, 1, 1), 0
    if of_weight is None:
        x = _with_images(_first(input, of_input, size))
        y = FORWARD(x.flatten(0, 1), weight, bias, *layer).unflatten(0, x.shape[:2])
        return y if input.dim() - (of_input is not None) == 4 else y.squeeze(1), 0
    w = _first(weight, of_weight, size)
    if of_input is None:
        filters = w.unflatten(1, (groups, -1)).transpose(0, 1)  # [g, B, K/g, C/g, R, S]
        biases = None if bias is None else bias.view(groups, 1, -1).expand(filters.shape[:3]).flatten()
        y = FORWARD(input, filters.flatten(0, 2), biases, *layer)
        return y.unflatten(-3, filters.shape[:3]).movedim(-4, 0).flatten(-4, -3), 0
    x = _first(input, of_input, size)
    biases = None if bias is None else bias.repeat(size)
    y = FORWARD(_into_channels(x), w.flatten(0, 1), biases, *rest, size * groups)
    return _out_of_channels(y, size, x.dim()), 0


def _saving_rule(
    info: Any, in_dims: tuple[Any, ...], input: Tensor, weight: Tensor, bias: Tensor | None, *layer: Any
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """No spectrum is kept."""
    y, dim = _forward_rule(info, in_dims, input, weight, bias, *layer[:4])
    return (y, *(y.new_empty(0, dtype=torch.uint8) for _ in range(2))), (dim, None, None)


def _backward_rule(
    info: Any, in_dims: tuple[Any, ...], grad_output: Tensor, input: Tensor, weight: Tensor, *layer: Any
) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
    size, (*rest, groups, mask) = info.batch_size, layer[:5]  # not the spectra, which are of another layer
    dy, x, w = map(_first, (grad_output, input, weight), in_dims, (size,) * 3)
    wanted, dx, dw, db = list(mask), None, None, None
    if mask[0] and in_dims[2] is None:
        wanted[0], images = False, _with_images(x)
        planes = _with_images(dy).flatten(0, 1), images.flatten(0, 1)
        dx = BACKWARD(*planes, weight, *rest, groups, [True, False, False])[0].unflatten(0, images.shape[:2])
        dx = dx if x.dim() == 5 else dx.squeeze(1)
    if any(wanted):
        planes = _into_channels(dy), _into_channels(x)
        if not wanted[0]:  # then the weight is its shape
            w = weight.new_empty(()).expand(w.shape)
        of_input, dw, db = BACKWARD(*planes, w.flatten(0, 1), *rest, size * groups, wanted)
        dx = _out_of_channels(of_input, size, x.dim()) if wanted[0] else dx
        dw = dw.unflatten(0, (size, -1)) if wanted[1] else None
        db = db.unflatten(0, (size, -1)) if wanted[2] else None
    return (dx, dw, db), tuple(0 if wanted else None for wanted in mask)


def _register(operator: Any, rule: Any) -> None:
    torch.library.register_vmap(operator._name, rule, lib=LIBRARY)


_register(FORWARD, _forward_rule)
_register(SAVING, _saving_rule)
_register(BACKWARD, _backward_rule)
