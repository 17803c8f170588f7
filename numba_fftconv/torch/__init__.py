"""Convolution layers by FFT inside torch: an operator with derivatives, a layer, and a way to put it into a model.

    conv2d           torch.nn.functional.conv2d by FFT: autograd, torch.func, torch.compile, torch.export, autocast
    FFTConv2d        the layer, in place of torch.nn.Conv2d
    SpectralConv2d   a layer that learns the spectrum of its kernel
    convert          turns those layers of a model into FFTConv2d that the cost model finds faster so

>>> import torch
>>> from numba_fftconv.torch import conv2d
>>> x, w = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 5, 5, requires_grad=True)
>>> conv2d(x, w, padding="same").sum().backward()
>>> w.grad.shape
torch.Size([1, 1, 5, 5])
"""

NEEDED = "numba_fftconv.torch needs torch 2.5 or newer"
INSTALL = "pip install 'numba_fftconv[torch]'"

try:
    import torch
except ImportError as error:
    raise ImportError(f"{NEEDED}, and there is none ({error}): {INSTALL}") from error
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 5):
    raise ImportError(f"{NEEDED}, and this is {torch.__version__}: {INSTALL}")

from . import batching, derivatives  # noqa: E402, F401
from .convert import convert  # noqa: E402
from .functional import conv2d  # noqa: E402
from .layer import FFTConv2d  # noqa: E402
from .spectral import SpectralConv2d  # noqa: E402

__all__ = ["FFTConv2d", "SpectralConv2d", "conv2d", "convert"]
