"""A convolution layer that learns the spectrum of its kernel.

The parameter h is the discrete Hartley transform of each plane of the kernel w, of R x S samples, and that of h is w:

    w[r, s] = (R S)^(-1/2) sum_k h[k] cas(2 pi (ky r / R + kx s / S))        cas = cos + sin
    h = Re f - Im f,   f(k) = (h(k) + h(-k)) / 2 - i (h(k) - h(-k)) / 2      f: the Fourier transform of w

How: f by torch.fft, whose h is real, has as many numbers as w has samples, and is orthonormal. Hence the gradient by h
is the Hartley transform of that by w: plain gradient descent, momentum and weight decay do the same in both domains,
and what scales each number by itself, as Adam does, scales frequencies instead of samples. The half spectrum of rfft2
has none of this: its columns kx = 0 and S/2 hold every number twice, and all others count double in a sum of squares.

A band limit keeps the frequencies |ky|, |kx| <= band_limit, in cycles per kernel, the middle of h: fewer parameters,
and a kernel that cannot learn what lies beyond. It is the kernel's own spectrum, not that of the tiles in which the
layer is computed: a spectrum of T x T bins would be a kernel of T x T samples.

Worked example: a 31 x 31 kernel has 961 parameters, and 13 x 13 = 169 of them lie within 6 cycles.

Sources: Mathieu, Henaff and LeCun, arXiv 1312.5851, who name it as future work; Rippel, Snoek and Adams, arXiv
1506.03767, whose spectral parametrisation is complex; Bracewell, J. Opt. Soc. Am. 73 (1983).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import options
from ..errors import InvalidOptionError, InvalidTypeError
from ..geometry import ConvGeometry
from ..options import Pair
from .functional import conv2d

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
DEFAULTS = {
    "stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1, "bias": True,
    "padding_mode": "zeros", "band_limit": None,
}  # fmt: skip
PLANES = (-2, -1)


class SpectralConv2d(nn.Module):
    """A layer like torch.nn.Conv2d whose parameter is the spectrum of its kernel.

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype : as
        those of torch.nn.Conv2d; sizes in samples, a kernel of at most 256 samples a side after dilation.
    band_limit : int or (rows, columns), in cycles per kernel, or None for all frequencies. Those above it are no
        parameters. A kernel of R rows has none above R // 2.

    Attributes
    ----------
    spectrum : Parameter [out_channels, in_channels / groups, rows, columns], real, orthonormal, frequency 0 in the
        middle at (rows // 2, columns // 2). At first it is the spectrum of the kernel that torch.nn.Conv2d begins with,
        without what lies beyond the band.
    bias : Parameter [out_channels], or None.
    weight : Tensor [out_channels, in_channels / groups, R, S], the kernel of this spectrum. Read-only.

    Raises
    ------
    InvalidShapeError : groups that do not divide the channels.
    InvalidOptionError, InvalidTypeError : a value that no layer can have.
    UnsupportedError : a kernel of more than 256 samples a side after dilation.

    Examples
    --------
    >>> layer = SpectralConv2d(3, 8, 31, padding="same", band_limit=6)
    >>> layer.spectrum.shape, layer.weight.shape
    (torch.Size([8, 3, 13, 13]), torch.Size([8, 3, 31, 31]))

    Source: Rippel, Snoek and Adams, arXiv 1506.03767.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        band_limit: int | Pair | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = options.integer(in_channels, "in_channels", in_channels, "an int", 1)
        self.out_channels = options.integer(out_channels, "out_channels", out_channels, "an int", 1)
        self.groups = options.integer(groups, "groups", groups, "an int that divides the channels", 1)
        self.kernel_size = options.pair(kernel_size, "kernel_size", kernel_size)
        self.dilation = options.pair(dilation, "dilation", dilation)
        if padding_mode not in PADDING_MODES:
            raise InvalidOptionError(f"padding_mode is {padding_mode!r}: it must be one of {', '.join(PADDING_MODES)}")
        self.padding_mode = padding_mode
        cycles = None if band_limit is None else options.pair(band_limit, "band_limit", band_limit, least=0)
        self.band_limit = cycles

        # The smallest input that holds the kernel: what is wrong with it is wrong with the layer.
        least = (d * (n - 1) + 1 for d, n in zip(self.dilation, self.kernel_size, strict=True))
        kernel = self.out_channels, self.in_channels // self.groups, *self.kernel_size
        geometry = ConvGeometry.from_arguments((self.in_channels, *least), kernel, stride, padding, dilation, groups)
        self.stride, self.padding = geometry.stride, geometry.padding

        limits = self.kernel_size if cycles is None else cycles
        bins = (min(n, 2 * limit + 1) for n, limit in zip(self.kernel_size, limits, strict=True))
        named = options.dtype(torch.get_default_dtype() if dtype is None else dtype)
        made: dict[str, Any] = {"device": device, "dtype": getattr(torch, named)}
        self.spectrum = nn.Parameter(torch.empty(*kernel[:2], *bins, **made))
        self.register_parameter("bias", nn.Parameter(torch.empty(self.out_channels, **made)) if bias else None)
        self.reset_parameters()

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, band_limit: int | Pair | None = None) -> "SpectralConv2d":
        """The layer that computes what `conv` does, with what of its kernel lies within the band.

        Parameters
        ----------
        conv : torch.nn.Conv2d, whose kernel and bias are copied; its dtype and device are kept.
        band_limit : int or (rows, columns), in cycles per kernel, or None for all frequencies.

        Returns
        -------
        SpectralConv2d

        Raises
        ------
        InvalidTypeError : not a torch.nn.Conv2d, or a lazy one that has no kernel yet.
        InvalidOptionError, UnsupportedError : a band limit that is no number of cycles, a kernel that is too large.

        Examples
        --------
        >>> conv = torch.nn.Conv2d(1, 1, 5)
        >>> torch.allclose(SpectralConv2d.from_conv(conv).weight, conv.weight, atol=1e-6)
        True

        Source: the projection onto frequencies that arXiv 1506.03767 calls spectral pooling.
        """
        if not isinstance(conv, nn.Conv2d):
            raise InvalidTypeError(f"conv is a {type(conv).__qualname__}: it must be a torch.nn.Conv2d")
        if nn.parameter.is_lazy(conv.weight):
            raise InvalidTypeError(f"conv is {conv}, which has no kernel yet: call it once before")
        layer = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            conv.groups, conv.bias is not None, conv.padding_mode, "meta", conv.weight.dtype, band_limit=band_limit,
        ).to_empty(device=conv.weight.device)  # fmt: skip
        layer._take(conv)
        return layer.train(conv.training)

    @property
    def weight(self) -> Tensor:
        """The kernel, as a differentiable function of the spectrum; made anew each time it is asked for."""
        return to_kernel(self.spectrum, self.kernel_size)

    def reset_parameters(self) -> None:
        """Draw kernel and bias as torch.nn.Conv2d does, by its own hand."""
        of_layer = self.in_channels, self.out_channels, self.kernel_size
        made: dict[str, Any] = {"device": self.spectrum.device, "dtype": self.spectrum.dtype}
        self._take(nn.Conv2d(*of_layer, groups=self.groups, bias=self.bias is not None, **made))

    @torch.no_grad()
    def _take(self, conv: nn.Conv2d) -> None:
        rows, columns = self.spectrum.shape[2:]
        self.spectrum.copy_(to_spectrum(conv.weight, (rows, columns)))
        if self.bias is not None and conv.bias is not None:
            self.bias.copy_(conv.bias)

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of [N, in_channels, H, W] or [in_channels, H, W] with the kernel of the spectrum."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            (top, bottom), (left, right) = self.padding
            input, padding = functional.pad(input, (left, right, top, bottom), self.padding_mode), 0
        return conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """What the constructor was told, as far as it is not the default."""
        values = {name: getattr(self, name) for name in DEFAULTS} | {"bias": self.bias is not None}
        told = [f"{name}={values[name]!r}" for name, default in DEFAULTS.items() if values[name] != default]
        return ", ".join([f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}", *told])


# ---- the transform ---------------------------------------------------------------------------------------------------


def to_kernel(spectrum: Tensor, size: Pair) -> Tensor:
    """The planes of `size` samples of real spectra with frequency 0 in the middle, whatever their band.

    >>> to_kernel(torch.ones(1, 1), (2, 2))
    tensor([[0.5000, 0.5000],
            [0.5000, 0.5000]])
    """
    return _hartley(torch.fft.ifftshift(_resized(spectrum, size), PLANES))


def to_spectrum(kernel: Tensor, bins: Pair) -> Tensor:
    """The middle `bins` of the real spectra of planes; all of them where that is the size of the planes.

    >>> to_spectrum(torch.ones(2, 2), (1, 1))
    tensor([[2.]])
    """
    return _resized(torch.fft.fftshift(_hartley(kernel), PLANES), bins)


def _hartley(planes: Tensor) -> Tensor:
    """The orthonormal Hartley transform, its own inverse; of half precision in float32, which torch.fft always has."""
    fourier = torch.fft.fft2(planes.to(torch.promote_types(planes.dtype, torch.float32)), norm="ortho")
    return (fourier.real - fourier.imag).to(planes.dtype)


def _resized(spectrum: Tensor, size: Pair) -> Tensor:
    """Cropped, or surrounded by zeros, so that frequency 0 stays in the middle."""
    rows, columns = spectrum.shape[-2:]
    top, left = size[0] // 2 - rows // 2, size[1] // 2 - columns // 2
    return functional.pad(spectrum, (left, size[1] - columns - left, top, size[0] - rows - top))
