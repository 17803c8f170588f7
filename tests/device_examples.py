"""Two kernels of a user's own on numba_fftconv.device, each with all its work in one launch, and what they compute.

The functions of a tile are bound to names of this module: Numba finds them by those.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import reference
from numba import complex64, cuda, float32, uint32

from numba_fftconv import device

T, B = 16, 8  # a block holds eight planes of 16 x 16 samples in 64 threads
tile = device.make_tile(T, planes=B)
load, rfft2, correlate_add, irfft2, store = tile.load, tile.rfft2, tile.correlate_add, tile.irfft2, tile.store
column_place, row_place, get_bin = tile.column_place, tile.row_place, tile.bin
THREADS = tile.threads

# ---- convolution, bias and GELU --------------------------------------------------------------------------------------

HALF, ONE, ROOT_HALF = np.float32(0.5), np.float32(1), np.float32(math.sqrt(0.5))  # a literal would be float64


@cuda.jit(device=True)
def gelu(x: Any) -> Any:
    return HALF * x * (ONE + math.erf(ROOT_HALF * x))


@cuda.jit
def conv_bias_gelu(x: Any, w: Any, bias: Any, y: Any, padding: Any) -> None:
    """y[N,K,P,Q] = gelu(conv2d(x[N,C,H,W], w[K,C,R,S], padding) + bias[K]), with R and S up to T.

    A block makes T-R+1 by T-S+1 samples of eight channels of one image, those of filters k to k + 7. It transforms x
    eight channels at a time and leaves the spectra in shared memory, where every filter meets them; of w it transforms
    one channel of its eight filters at a time. Thread (row, plane b) sums row `row` of filter k + b over the channels.
    """
    x_rows = cuda.shared.array((T, THREADS), complex64, alignment=16)
    z = cuda.local.array(T, complex64)
    x_row = cuda.local.array(T, complex64)
    total = cuda.local.array(T, complex64)
    row, _ = row_place()
    _, pair = column_place()
    height, width = T + 1 - w.shape[2], T + 1 - w.shape[3]
    p, q = cuda.blockIdx.y * height, cuda.blockIdx.x * width
    groups = uint32(uint32(w.shape[0] + B - 1) // uint32(B))  # signed numbers of 64 bits are dear to divide
    n = uint32(uint32(cuda.blockIdx.z) // groups)
    k = uint32(cuda.blockIdx.z - n * groups) * B

    for i in range(T):
        total[i] = 0
    for first in range(0, x.shape[1], B):
        load(z, x, (n, first), (0, 1), (p - padding, q - padding))
        rfft2(z)
        for i in range(T):
            x_rows[i, cuda.threadIdx.x] = z[i]
        for c in range(first, min(first + B, x.shape[1])):
            load(z, w, (k, c), (1, 0), (0, 0))
            rfft2(z)  # its barriers also stand between writing x_rows and reading them
            for i in range(T):
                x_row[i] = x_rows[i, row * B + (c - first)]
            correlate_add(total, x_row, z)

    irfft2(total)
    k_pair = k + 2 * pair
    bias_re = bias[k_pair] if k_pair < bias.size else float32(0)
    bias_im = bias[k_pair + 1] if k_pair + 1 < bias.size else float32(0)
    for r in range(T):
        total[r] = complex(gelu(total[r].real + bias_re), gelu(total[r].imag + bias_im))
    store(total, y, (n, k), (0, 1), (p, q), (height, width))


def conv_grid(x_shape: tuple[int, ...], w_shape: tuple[int, ...], padding: int) -> tuple[int, int, int]:
    """The blocks of conv_bias_gelu."""
    (N, _, H, W), (K, _, R, S) = x_shape, w_shape
    down, across = -(-(H + 2 * padding - R + 1) // (T - R + 1)), -(-(W + 2 * padding - S + 1) // (T - S + 1))
    return across, down, N * -(-K // B)


# ---- power spectrum --------------------------------------------------------------------------------------------------


@cuda.jit
def power_spectrum(x: Any, power: Any, scale: Any) -> None:
    """power[n, ky, kx] = scale * sum over c of |X[n, c, ky, kx]|^2, 0 <= ky <= T/2, 0 <= kx < T.

    Of x[N,C,H,W] with H and W up to T; a block takes an image. The product of a spectrum with its own conjugate is
    summed up over the planes that a thread meets, then over the eight threads of the same row.
    """
    sums = cuda.shared.array((T, THREADS), complex64, alignment=16)
    z = cuda.local.array(T, complex64)
    total = cuda.local.array(T, complex64)
    row, plane = row_place()
    n = cuda.blockIdx.x

    for i in range(T):
        total[i] = 0
    for c in range(0, x.shape[1], B):
        load(z, x, (n, c), (0, 1), (0, 0))
        rfft2(z)
        correlate_add(total, z, z)
    for i in range(T):
        sums[i, cuda.threadIdx.x] = total[i]
    cuda.syncthreads()  # all sums are written before one is read

    if plane == 0:
        for b in range(1, B):
            for i in range(T):
                total[i] += sums[i, row * B + b]
        for kx in range(T):
            power[n, row, kx] = scale * get_bin(total, row, kx).real
            if row == 0:
                power[n, T // 2, kx] = scale * get_bin(total, T // 2, kx).real


# ---- what they should compute ----------------------------------------------------------------------------------------

Launch = Callable[[Any, tuple[int, int, int], tuple[Any, ...]], None]  # kernel, grid, arguments
TOLERANCE = 1e-6  # relative to the largest value


def check_conv_bias_gelu(launch: Launch, N: int, C: int, K: int, plane: tuple[int, int], taps: tuple[int, int]) -> None:
    """Random values with padding 2, against the definition in float64."""
    rng = np.random.default_rng(C)
    x, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((N, C, *plane), (K, C, *taps), (K,)))
    sums = reference.forward(x, w, (1, 1), ((2, 2), (2, 2)), (1, 1), 1) + bias[:, None, None]
    expected = sums * 0.5 * (1 + np.vectorize(math.erf)(sums / math.sqrt(2)))
    y = np.full(sums.shape, np.nan, np.float32)
    launch(conv_bias_gelu, conv_grid(x.shape, w.shape, 2), (x, w, bias, y, 2))
    np.testing.assert_allclose(y, expected, rtol=0, atol=TOLERANCE * abs(sums).max())


def check_power_spectrum(launch: Launch, N: int, C: int, plane: tuple[int, int]) -> None:
    """The mean over channels of random values, against numpy.fft in float64."""
    x = np.random.default_rng(C).standard_normal((N, C, *plane)).astype(np.float32)
    expected = (abs(np.fft.fft2(x.astype(np.float64), (T, T))) ** 2).mean(1)[:, : T // 2 + 1]
    power = np.full(expected.shape, np.nan, np.float32)
    launch(power_spectrum, (N, 1, 1), (x, power, np.float32(1 / C)))
    np.testing.assert_allclose(power, expected, rtol=0, atol=TOLERANCE * expected.max())
