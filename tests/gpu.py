"""Whether this machine has a GPU that kernels run on."""

from functools import cache

from numba_fftconv.errors import FFTConvError


@cache
def has_gpu() -> bool:
    from numba_fftconv.cuda import driver
    from numba_fftconv.cuda.toolchain import SIMULATED

    try:
        return not SIMULATED and driver.count() > 0 and driver.device(0) is not None
    except FFTConvError:
        return False
