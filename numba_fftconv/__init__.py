"""Convolution layers by FFT: the forward pass and both gradients of a layer, array in, array out.

>>> import numpy as np
>>> from numba_fftconv import conv2d
>>> conv2d(np.ones((2, 3, 32, 32), np.float32), np.ones((4, 3, 5, 5), np.float32), padding=2).shape
(2, 4, 32, 32)
"""

from .api import conv2d, conv2d_backward, conv2d_input_grad, conv2d_weight_grad, plan_conv2d
from .errors import (
    CudaError,
    DeviceMismatchError,
    FFTConvError,
    InvalidOptionError,
    InvalidShapeError,
    InvalidTypeError,
    PlanMismatchError,
    UnsupportedError,
    WorkspaceError,
)
from .geometry import ConvGeometry
from .plan import ConvPlan, clear_cache
from .spectral import SpectralInput, SpectralWeight
from .stages import frequencies, inverse, multiply, transform

__version__ = "0.1.0"

__all__ = [
    "ConvGeometry",
    "ConvPlan",
    "CudaError",
    "DeviceMismatchError",
    "FFTConvError",
    "InvalidOptionError",
    "InvalidShapeError",
    "InvalidTypeError",
    "PlanMismatchError",
    "SpectralInput",
    "SpectralWeight",
    "UnsupportedError",
    "WorkspaceError",
    "__version__",
    "clear_cache",
    "conv2d",
    "conv2d_backward",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "frequencies",
    "inverse",
    "multiply",
    "plan_conv2d",
    "transform",
]
