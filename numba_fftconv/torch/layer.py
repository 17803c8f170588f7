"""FFTConv2d: torch.nn.Conv2d by FFT, a subclass that computes otherwise and has nothing more in its state.

In evaluation, where nothing records gradients, the weight is transformed once and its spectrum kept for as long as it
is that of the weight: the spectrum lies beside an alias of the memory that it was made from, whose address thus is no
other tensor's, and the version of the weight, which every change in place counts up. A change that torch does not
count, through `weight.data` or a NumPy view, goes unseen until `train()` or `eval()` is called.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import options
from ..plan import ConvPlan
from ..spectral import SpectralWeight
from .derivatives import is_plain
from .functional import conv2d, read
from .operator import plan_of


class Kept(NamedTuple):
    """The spectrum of a weight, and what it holds for."""

    spectrum: SpectralWeight
    weight: Tensor  # an alias of what was transformed
    state: tuple[Any, ...]


class FFTConv2d(nn.Conv2d):
    """A layer that convolves by FFT, in place of torch.nn.Conv2d.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype : as
        those of torch.nn.Conv2d; so are the parameters, their initial values and the keys of the state.
    save, save_limit : which spectra may be kept for backward, as of `numba_fftconv.torch.conv2d`.

    Returns
    -------
    A module: input [N, C, H, W] or [C, H, W] to output [N, K, P, Q] or [K, P, Q], as `numba_fftconv.torch.conv2d`.

    Raises
    ------
    Whatever torch.nn.Conv2d raises of its arguments; in a call what `numba_fftconv.torch.conv2d` raises.

    Examples
    --------
    >>> layer = FFTConv2d(3, 8, 9, padding="same")
    >>> layer(torch.ones(2, 3, 32, 32)).shape
    torch.Size([2, 8, 32, 32])
    >>> layer
    FFTConv2d(3, 8, kernel_size=(9, 9), stride=(1, 1), padding=same)

    Source: torch.nn.Conv2d.
    """

    save: str = "none"
    save_limit: int | None = None
    _kept: Kept | None = None

    def __init__(self, *arguments: Any, save: str = "none", save_limit: int | None = None, **named: Any) -> None:
        options.save(save), options.save_limit(save_limit)
        super().__init__(*arguments, **named)
        self.save, self.save_limit = save, save_limit

    def extra_repr(self) -> str:
        limit = "" if self.save_limit is None else f", save_limit={self.save_limit}"
        return super().extra_repr() + (f", save={self.save}{limit}" if self.save != "none" else "")

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            padding = 0
            input = nn.functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
        if self._keeps(input, weight, bias):
            layer = read(weight.shape, self.stride, padding, self.dilation, self.groups)
            plan = plan_of(input.shape, weight.shape, input.dtype, input.device, *layer)
            operands = input.detach(), self._spectrum(plan, weight)
            out = input.new_empty(plan.geometry.output_shape)
            return plan.forward(*operands, None if bias is None else bias.detach(), out=out)
        options = self.stride, padding, self.dilation, self.groups
        return conv2d(input, weight, bias, *options, save=self.save, save_limit=self.save_limit)

    def _keeps(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
        """Whether this is a plain call in evaluation: nothing traces, transforms, captures or records it."""
        if self.training or torch.compiler.is_compiling() or weight is not self._parameters.get("weight"):
            return False
        given = [input, weight] if bias is None else [input, weight, bias]
        return (
            type(weight) is nn.Parameter  # no tensor that torch.func.functional_call has put there for one call
            and not weight.is_inference()  # which has no version
            and is_plain(given)
            and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given))
            and all(tensor.dtype == weight.dtype and tensor.device == weight.device for tensor in given)
            and not torch.is_autocast_enabled(weight.device.type)
            and not (weight.is_cuda and torch.cuda.is_current_stream_capturing())  # a graph outlives what it reads
        )

    def _spectrum(self, plan: ConvPlan, weight: Tensor) -> SpectralWeight:
        """The spectrum of the weight, made now unless it is kept; on a GPU for the current stream alone."""
        stream = torch.cuda.current_stream(weight.device).cuda_stream if weight.is_cuda else None
        state = weight.data_ptr(), weight.stride(), weight._version, plan.fft_size, plan.dtype, plan.device, stream
        kept = self._kept
        if kept is None or kept.state != state:
            alias = weight.detach()
            self._kept = kept = Kept(plan.transform_weight(alias), alias, state)
        return kept.spectrum

    # ---- the spectrum goes when the module changes, and with no copy of it -------------------------------------------

    def train(self, mode: bool = True) -> "FFTConv2d":
        """Switch between training and evaluation, and forget the spectrum of the weight."""
        self._forget()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> "FFTConv2d":
        self._forget()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state.pop("_kept", None)
        return state

    def _forget(self) -> None:
        self.__dict__.pop("_kept", None)
