"""The exceptions: each derives from FFTConvError and from the builtin that a NumPy user would catch."""


class FFTConvError(Exception):
    """Every error that this package raises on purpose."""


class InvalidShapeError(FFTConvError, ValueError):
    """Ranks, channels, groups, a kernel larger than its padded input, or an array of the wrong shape."""


class InvalidOptionError(FFTConvError, ValueError):
    """A stride, dilation, padding, precision, fft_size or device that nothing allows; an out that cannot be written."""


class InvalidTypeError(FFTConvError, TypeError):
    """Not an array, or an array of a dtype that does not fit."""


class UnsupportedError(FFTConvError, NotImplementedError):
    """Legal, but not implemented."""


class WorkspaceError(FFTConvError, MemoryError):
    """A workspace that is too small, a limit that nothing fits, or more memory than the machine gives."""


class DeviceMismatchError(FFTConvError, ValueError):
    """Arrays on different devices."""


class PlanMismatchError(FFTConvError, ValueError):
    """A plan or a SpectralWeight used with other shapes, another dtype or another device."""


class CudaError(FFTConvError, RuntimeError):
    """A call of the CUDA driver that failed: the call or kernel, the driver's name and words for it."""
