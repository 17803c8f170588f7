"""convert: the layers of a model that an FFT would speed up become FFTConv2d, where they are.

An example runs through the model once and says what each torch.nn.Conv2d is called with. The cost model then sets the
plan of that layer against a direct convolution at the rate of the product (tuning.py). Both are a model's figures, of
which nothing is measured, and torch's own convolution may be faster or slower than that: time the model before and
after. A layer that is converted changes its class and nothing else; it stays the object that it is, with its
parameters, hooks and names.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from .. import options, tuning
from ..errors import FFTConvError, InvalidTypeError
from ..explain import seconds
from ..passes import PASSES, named
from .functional import read
from .layer import FFTConv2d
from .operator import NAMES, plan_of


class Seen(NamedTuple):
    """What a layer is called with."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Decision:
    """What became of one layer: its names in the model, whether it is an FFTConv2d now, why, and seconds by FFT and by
    a direct convolution, both a model's; None where there are none.
    """

    names: tuple[str, ...]
    layer: str
    is_converted: bool
    reason: str
    fft: float | None = None
    direct: float | None = None


@dataclass(frozen=True)
class Report:
    """The decisions about the layers of a model, in the order of its modules; prints as a table."""

    decisions: tuple[Decision, ...]

    @property
    def converted(self) -> tuple[str, ...]:
        """Names of the layers that were converted; of one that has several, the first."""
        return tuple(decision.names[0] for decision in self.decisions if decision.is_converted)

    def __str__(self) -> str:
        """A row for each layer. Times are predictions."""
        head = ("layer", "is now", "by FFT", "direct", "because", "is a")
        rows = [head, *(_row(decision) for decision in self.decisions)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _row(decision: Decision) -> tuple[str, ...]:
    times = ["" if time is None else seconds(time) for time in (decision.fft, decision.direct)]
    now = "FFTConv2d" if decision.is_converted else "as it was"
    return ", ".join(name or "(the module)" for name in decision.names), now, *times, decision.reason, decision.layer


def convert(
    module: nn.Module, *example: Any, where: Callable[[str, nn.Conv2d], bool] | None = None,
    passes: Collection[str] = tuple(PASSES), save: str = "none", save_limit: int | None = None,
) -> Report:  # fmt: skip
    """Turn the torch.nn.Conv2d layers of a model, in place, into FFTConv2d where the cost model finds them faster so.

    Parameters
    ----------
    module : model, or a single layer. Subclasses of torch.nn.Conv2d in it stay as they are.
    example : arguments of a call of the model, in shapes that it will have; it runs once, without gradients and in
        evaluation, and leaves the model's buffers and modes as they were.
    where : says of the name and the layer whether one that would be converted shall be; None converts all of them.
    save, save_limit : which spectra each of the converted layers may keep for backward, as of
        `numba_fftconv.torch.conv2d`; the limit is of one call of one layer.
    passes : over which the times are summed, of 'forward', 'input_grad' and 'weight_grad'; ('forward',) for inference.

    Returns
    -------
    Report : what was decided on each layer and why, with the predicted times of the passes in seconds.

    Raises
    ------
    InvalidTypeError : `module` is no module.
    InvalidOptionError : another name in `passes`, or another policy.
    Whatever the call of the model raises; then nothing is converted.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 9, padding=4))
    >>> report = convert(model, torch.ones(2, 3, 32, 32))
    >>> report.converted
    ('1',)
    >>> print(model)
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))
      (1): FFTConv2d(8, 8, kernel_size=(9, 9), stride=(1, 1), padding=(4, 4))
    )

    Source: the planner of FFTW, which chooses by an estimate where it does not measure.
    """
    if not isinstance(module, nn.Module):
        raise InvalidTypeError(f"module is a {type(module)}: it must be a torch.nn.Module")
    summed = [named(name).name for name in passes]
    options.save(save), options.save_limit(save_limit)
    calls = _calls(module, example)
    names: dict[nn.Module, list[str]] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, nn.Conv2d):
            names.setdefault(layer, []).append(name)
    decisions = [_decision(layer, tuple(found), calls[layer], where, summed) for layer, found in names.items()]
    for layer, decision in zip(names, decisions, strict=True):
        if decision.is_converted:
            layer.__class__ = FFTConv2d
            assert isinstance(layer, FFTConv2d)
            layer.save, layer.save_limit = save, save_limit
    return Report(tuple(decisions))


def _decision(
    layer: nn.Module, names: tuple[str, ...], inputs: list[Seen], where: Any, passes: list[str]
) -> Decision:  # fmt: skip
    """On one layer, of the inputs that it was called with."""
    assert isinstance(layer, nn.Conv2d)

    def left(reason: str, *times: float) -> Decision:
        return Decision(names, repr(layer), False, reason, *times)

    if isinstance(layer, FFTConv2d):
        return left("it is one already")
    if type(layer) is not nn.Conv2d:
        return left(f"{type(layer).__name__} is a class of its own")
    if layer.kernel_size == (1, 1):
        return left("a kernel of one sample leaves an FFT nothing to save")
    if not inputs:
        return left("the example does not reach it")
    fft = direct = 0.0
    for input in inputs:
        try:
            by_fft, directly = _seconds(layer, input, passes)
        except FFTConvError as error:
            return left(str(error))
        fft, direct = fft + by_fft, direct + directly
    if fft >= direct:
        return left("a direct convolution is predicted to be as fast or faster", fft, direct)
    if where is not None and not where(names[0], layer):
        return left("`where` says no", fft, direct)
    return Decision(names, repr(layer), True, f"predicted to be {direct / fft:.1f} times as fast", fft, direct)


def _seconds(layer: nn.Conv2d, input: Seen, passes: list[str]) -> tuple[float, float]:
    """Of the passes of a call by FFT and by a direct convolution; padding of any mode takes the time of zeros."""
    if input.dtype not in NAMES:
        raise InvalidTypeError(f"input has dtype {input.dtype}, which FFTConv2d does not take")
    numbers = read(layer.weight.shape, layer.stride, layer.padding, layer.dilation, layer.groups)
    plan = plan_of(input.shape, layer.weight.shape, input.dtype, input.device, *numbers)
    direct = tuning.direct_seconds(plan.geometry, plan.dtype, plan.target, plan.threads)
    return sum(plan.choice.by_pass[name].seconds for name in passes), direct * len(passes)


# ---- running the example ---------------------------------------------------------------------------------------------


def _calls(module: nn.Module, example: tuple[Any, ...]) -> dict[nn.Module, list[Seen]]:
    """By layer, what each call of it is given."""
    calls: dict[nn.Module, list[Seen]] = {}

    def record(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        input = (*given, *named.values())[0]
        calls[layer].append(Seen(input.shape, input.dtype, input.device))

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    calls.update({layer: [] for layer in layers})
    try:
        with torch.no_grad(), _as_it_was(module):
            module(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """The module in evaluation; afterwards the modes of its parts and its buffers are what they were."""
    modes = {part: part.training for part in module.modules()}
    buffers = {part: dict(part._buffers) for part in modes}
    held = [buffer for of_part in buffers.values() for buffer in of_part.values() if buffer is not None]
    samples = [(buffer, buffer.clone()) for buffer in held if not nn.parameter.is_lazy(buffer)]
    try:
        for part in modes:
            part.training = False  # eval() may do more, in modules that have their own
        yield
    finally:
        for part, training in modes.items():
            part.training = training
            part._buffers.update(buffers[part])
        for buffer, before in samples:
            if not torch.equal(buffer, before):
                buffer.copy_(before)
