"""The derivatives of the operators, to any order: each is written in the operators themselves.

y = conv(x, w) + b is linear in x, in w and in b, and so are the gradients dx = conv^T(dy, w), dw = corr(x, dy) and
db = sum dy in what they are made of. With cotangents gx, gw, gb of the three gradients

    of conv2d             dx, dw, db, as conv2d_backward makes them together, from what conv2d_saving has kept
    of conv2d_backward    in dy: conv(gx, w) + conv(x, gw) + gb       in x: conv^T(dy, gw)       in w: corr(gx, dy)

They are kernels of the dispatcher, so that torch.func and torch.compile find them wherever an operator is called.

Source: the pairing <dy, conv(x, w)> = <dx, x> = <dw, w> that defines the gradients.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from .operator import BACKWARD, FORWARD, KERNELS, LIBRARY, SAVING, geometry

Gradients = tuple[Tensor | None, ...]
NONE: Gradients = (None, None, None)
KEYS = {"CPU", "CUDA", "ADInplaceOrView", "AutogradCPU", "AutogradCUDA", "AutocastCPU", "AutocastCUDA"}
PLAIN: dict[int, bool] = {}  # by what the dispatcher goes by in a tensor, whether that is nothing but these


def _sum(terms: Iterable[Tensor | None]) -> Tensor | None:
    """Of those that are there."""
    there = [term for term in terms if term is not None]
    return sum(there[1:], there[0]) if there else None


def _gradients(ctx: Any, grad_output: Tensor, *_: None) -> Gradients:
    """Of conv2d and conv2d_saving."""
    input, weight, _, *spectra = ctx.saved_tensors
    return call(BACKWARD, grad_output, input, weight, *ctx.layer[:4], ctx.needs, *spectra)


def _tangents(ctx: Any, tx: Tensor | None, tw: Tensor | None, tb: Tensor | None) -> Tensor | None:
    """Of conv2d: conv(tx, w) + conv(x, tw) + tb."""
    (x, w, *_), layer = ctx.saved_tensors, ctx.layer[:4]
    shape = geometry(x.shape, w.shape, *layer).output_shape
    return _sum((
        None if tx is None else FORWARD(tx, w, None, *layer),
        None if tw is None else FORWARD(x, tw, None, *layer),
        None if tb is None else tb[:, None, None].expand(shape),
    ))


def _gradients_of_backward(ctx: Any, gx: Tensor | None, gw: Tensor | None, gb: Tensor | None) -> Gradients:
    """Of conv2d_backward; an operand of which a gradient has the shape alone is any tensor of that shape."""
    (dy, x, w), layer, (of_dy, of_x, of_w) = ctx.saved_tensors, ctx.layer[:4], ctx.needs
    in_dy = (
        None if gx is None else FORWARD(gx, w, None, *layer),
        None if gw is None else FORWARD(x, gw, None, *layer),
        None if gb is None else gb[:, None, None].expand_as(dy),
    )
    return (
        _sum(in_dy) if of_dy else None,
        BACKWARD(dy, x, gw, *layer, [True, False, False])[0] if of_x and gw is not None else None,
        BACKWARD(dy, gx, w, *layer, [False, True, False])[1] if of_w and gx is not None else None,
    )


def _tangents_of_backward(ctx: Any, tdy: Tensor | None, tx: Tensor | None, tw: Tensor | None) -> Gradients:
    """Of conv2d_backward: what is made of two operands changes with either."""
    (dy, x, w), (*layer, mask) = ctx.saved_tensors, ctx.layer[:5]
    parts = (
        NONE if tdy is None else BACKWARD(tdy, x, w, *layer, mask),
        NONE if tx is None else BACKWARD(dy, tx, w, *layer, [False, mask[1], False]),
        NONE if tw is None else BACKWARD(dy, x, tw, *layer, [mask[0], False, False]),
    )
    found, like = map(_sum, zip(*parts, strict=True)), (x, w, w[:, 0, 0, 0])
    return tuple(
        torch.zeros_like(model) if wanted and tangent is None else tangent
        for tangent, model, wanted in zip(found, like, mask, strict=True)
    )


def _is_recorded(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


# ---- operators with derivatives --------------------------------------------------------------------------------------


RECORD: dict[Any, Callable[..., Any]] = {}  # by operator, what calls its kernel and records that


def call(operator: Any, *given: Any) -> Any:
    """An operator; on plain tensors past the dispatcher, whose two steps through Python take longer than the rest."""
    if not is_plain(given[:3]):
        return operator(*given)
    return RECORD[operator](None, *given) if _is_recorded(given[:3]) else KERNELS[operator](*given)


def is_plain(tensors: Sequence[Tensor | None]) -> bool:
    """Whether the dispatcher would find nothing but derivative and kernel: nothing traces or transforms the call."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._len_torch_function_stack()
        and not torch.jit.is_tracing()
        and all(tensor is None or _is_plain(tensor) for tensor in tensors)
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is one by itself: no batch of vmap, not negated by a flag, nothing that stands for zeros."""
    keys = torch._C._dispatch_keys(tensor)
    known = PLAIN.get(keys.raw_repr())
    if known is None:
        known = PLAIN[keys.raw_repr()] = set(str(keys).partition("(")[2].rstrip(")").split(", ")) <= KEYS
    return known and type(tensor) in (Tensor, nn.Parameter)


def _differentiate(
    operator: Any, gradients: Callable[..., Gradients], tangents: Callable[..., Any], saves: bool = False
) -> None:
    """Give an operator of three tensors its derivatives, which find the tensors, the rest and what is needed in ctx;
    where it `saves`, all its results but the first, too."""

    def below(keys: Any, *given: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return operator.redispatch(keys & torch._C._after_autograd_keyset, *given)

    class Recorded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, keys: Any, *given: Any) -> Any:
            if keys is None:
                result = KERNELS[operator](*given)
            else:
                with torch.enable_grad(), _set_fwd_grad_enabled(True):  # for the transforms that enclose this one
                    result = below(keys, *given)
                ctx.save_for_forward(*given[:3])
            saved = result[1:] if saves else ()
            if saves:
                ctx.mark_non_differentiable(*saved)
            ctx.save_for_backward(*given[:3], *saved)
            ctx.layer, ctx.needs = given[3:], list(ctx.needs_input_grad[1:4])
            ctx.set_materialize_grads(False)
            return result

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
            found = NONE if all(each is None for each in cotangents) else gradients(ctx, *cotangents)
            return (None, *found, *[None] * len(ctx.layer))

        @staticmethod
        def jvp(ctx: Any, _: Any, *given: Any) -> Any:
            found = tangents(ctx, *given[:3])
            return (found, None, None) if saves else found

    # The dispatcher has peeled the transforms of torch.func off already; Function.apply itself would do so once more.
    record: Callable[..., Any] = super(torch.autograd.Function, Recorded).apply

    def kernel(keys: Any, *given: Any) -> Any:
        if forward_ad._current_level < 0 and not _is_recorded(given[:3]):
            return below(keys, *given)
        if torch._C._are_functorch_transforms_active():
            with enable_single_level_autograd_function():
                return record(keys, *given)
        return record(keys, *given)

    LIBRARY.impl(operator._opname, kernel, "Autograd", with_keyset=True)
    RECORD[operator] = record


_differentiate(FORWARD, _gradients, _tangents)
_differentiate(SAVING, _gradients, _tangents, saves=True)
_differentiate(BACKWARD, _gradients_of_backward, _tangents_of_backward)
