"""The three stages as calls of their own, for who builds layers in the frequency domain: transform, multiply, inverse.

A spectrum is a C-contiguous complex array [F, rows, columns], a matrix for each frequency bin: [F, N, C] of images,
[F, K, C] of a weight. Of real planes, with zeros up to R x Q samples, fft_size=(R, Q), it holds half of the bins,
F = R*Q/2 + 2; bin f is the frequency (ky, kx) = frequencies(fft_size)[f], and those that it leaves out are the
conjugates of those that it holds. With e(t) = exp(2 pi i t):

    transform   S[f, n, c] = 2 sum over r, j of x[n, c, r, j] e(-ky r/R - kx j/Q)
    multiply    Y[f] = A[f] B[f] / 2, one operand conjugated in forward and weight_grad; the table of passes.py
    inverse     y[n, c, r, j] = 1/(2 R*Q) sum over all R*Q bins of S[(ky, kx), n, c] e(ky r/R + kx j/Q)

So a spectrum is stored doubled, the product of two is halved, which leaves it doubled, and the inverse divides that
out: inverse after transform gives the planes, and a product between them circular sums of R x Q samples,

    forward       y[m, k, p]  = sum over c and r of  x[m, c, (p + r) mod T] w[k, c, r]
    input_grad    dx[m, c, p] = sum over k and r of dy[m, k, (p - r) mod T] w[k, c, r]
    weight_grad   dw[k, c, r] = sum over m and p of  x[m, c, (p + r) mod T] dy[m, k, p]

where p and r stand for both axes and T for the length of either. These are the passes of a layer without padding where
no T is below the side of x: nothing that wraps round is read. The four bins with ky of 0 or R/2 and kx of 0 or Q/2 are
real: inverse leaves their imaginary part unread.

Arrays in host memory are computed by numpy.fft, arrays of a GPU by the kernels of the CUDA engine, on spectra as they
lie. Source: Mathieu, Henaff, LeCun, arXiv 1312.5851; the layout is that of Vasilache et al., arXiv 1412.7580.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import dtypes, options, passes
from .arrays import check_devices, dtype_name, fitting, like, view
from .cpu import stages as cpu_stages
from .errors import InvalidOptionError, InvalidShapeError, InvalidTypeError, UnsupportedError
from .integers import Size, bin_order, bins
from .options import FFT_RULE, FFT_SIZES, MAX_FFT
from .passes import Pass

REAL = {np.dtype("complex64"): "float32", np.dtype("complex128"): "float64"}  # of a spectrum's planes
COMPLEX = {"float32": "complex64", "float64": "complex128"}
SQUARES = {bins((T, T)): (T, T) for T in FFT_SIZES}  # by the number of bins
COUNTS = {bins((rows, columns)) for rows in FFT_SIZES for columns in FFT_SIZES}
AXES = {  # rows and columns of a spectrum, by its letter in passes.py
    "X": ("m", "C"), "Y": ("m", "K"), "W": ("K", "C/groups"),
    "dX": ("m", "C"), "dY": ("m", "K"), "dW": ("K", "C/groups"),
}  # fmt: skip


def frequencies(fft_size: Any) -> np.ndarray:
    """Say which bin of a spectrum is which frequency.

    Parameters
    ----------
    fft_size : transform length, an even product of 2, 3, 5, 7 up to 64, or 128 or 256; or two, (rows, columns).

    Returns
    -------
    NumPy array of int [F, 2]: ky and kx of every bin, in cycles per tile.

    Raises
    ------
    InvalidOptionError, UnsupportedError

    Examples
    --------
    >>> frequencies(4).tolist()
    [[0, 0], [0, 1], [0, 2], [2, 0], [2, 1], [2, 2], [1, 0], [1, 1], [1, 2], [1, 3]]

    A low-pass filter of images [N, C, 32, 32]:

    >>> ky, kx = np.minimum(frequencies(32), 32 - frequencies(32)).T
    >>> spectrum = transform(np.ones((1, 1, 32, 32), np.float32), 32)
    >>> spectrum[np.hypot(ky, kx) > 8] = 0
    >>> np.allclose(inverse(spectrum, (32, 32)), 1)
    True

    Source: Vasilache et al., arXiv 1412.7580.
    """
    return np.array(bin_order(_size(fft_size, 1, 1)))


def transform(planes: Any, fft_size: Any, *, out: Any = None, stream: Any = None) -> Any:
    """Transform every plane, with zeros below and beside it up to fft_size samples.

    Parameters
    ----------
    planes : array [N, C, H, W] of float16, bfloat16, float32 or, on a CPU, float64.
    fft_size : transform length, from H and W on an even product of 2, 3, 5, 7 up to 64, or 128 or 256; or two of them,
        (rows, columns).
    out : C-contiguous array of the result's shape and dtype to write into; on a CPU with any strides.
    stream : CUDA stream; None on a CPU.

    Returns
    -------
    Spectrum [F, N, C], complex128 of float64 and complex64 of any other, twice the discrete Fourier transform of the
    planes at `frequencies(fft_size)`, in the library of `planes`; or `out`, where it is given.

    Raises
    ------
    InvalidShapeError, InvalidOptionError, InvalidTypeError, UnsupportedError, DeviceMismatchError

    Examples
    --------
    >>> plane = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    >>> ky, kx = frequencies(4).T
    >>> np.allclose(transform(plane, 4)[:, 0, 0], 2 * np.fft.fft2(plane[0, 0])[ky, kx])
    True

    Source: Mathieu, Henaff, LeCun, arXiv 1312.5851.
    """
    x = view(planes, "planes")
    dtype = dtype_name(x, "planes")
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise InvalidShapeError(f"planes has shape {x.shape}: it must be [N, C, H, W], with samples in every plane")
    N, C, H, W = x.shape
    tile = _size(fft_size, H, W)
    stages = _stages(tile, {"planes": x}, stream)
    spectrum = stages.output(out, (bins(tile), N, C), COMPLEX[dtypes.computed(dtype)])
    stages.transform(x, spectrum)
    return like(spectrum, planes) if out is None else out


def multiply(
    a: Any, b: Any, pass_name: str = "forward", *,
    groups: int = 1, out: Any = None, accumulate: bool = False, stream: Any = None,
) -> Any:  # fmt: skip
    """Multiply two spectra bin by bin, as a pass of a layer does.

    Parameters
    ----------
    a, b : spectra of one transform length and dtype, C-contiguous on a GPU: X [F, m, C] and W [F, K, C/groups] for
        'forward', dY [F, m, K] and W for 'input_grad', X and dY for 'weight_grad'. m counts images.
    pass_name : 'forward', 'input_grad' or 'weight_grad'.
    groups : int that divides both C and K; with as many groups as channels the products are element by element.
    out : C-contiguous spectrum of the result's shape and dtype to write into; on a CPU with any strides.
    accumulate : whether the products are added to what `out` holds.
    stream : CUDA stream; None on a CPU.

    Returns
    -------
    Spectrum Y [F, m, K], dX [F, m, C] or dW [F, K, C/groups], in the library of `a`; or `out`, where it is given.

    Raises
    ------
    InvalidShapeError, InvalidOptionError, InvalidTypeError, UnsupportedError, DeviceMismatchError

    Examples
    --------
    A layer and both its gradients, from three transforms:

    >>> from numba_fftconv import conv2d, conv2d_input_grad, conv2d_weight_grad
    >>> draw = np.random.default_rng(0).standard_normal
    >>> x, w, dy = (draw(shape).astype("float32") for shape in ((2, 3, 12, 12), (4, 3, 5, 5), (2, 4, 8, 8)))
    >>> X, W, dY = (transform(planes, 12) for planes in (x, w, dy))
    >>> y = inverse(multiply(X, W), (8, 8))
    >>> dx = inverse(multiply(dY, W, "input_grad"), (12, 12))
    >>> dw = inverse(multiply(X, dY, "weight_grad"), (5, 5))
    >>> np.allclose(y, conv2d(x, w), atol=1e-4)
    True
    >>> np.allclose(dx, conv2d_input_grad(x.shape, w, dy), atol=1e-4)
    True
    >>> np.allclose(dw, conv2d_weight_grad(x, w.shape, dy), atol=1e-4)
    True

    Source: Mathieu, Henaff, LeCun, arXiv 1312.5851, section 2.
    """
    row, read = passes.named(pass_name), {"a": _spectrum(a, "a"), "b": _spectrum(b, "b")}
    if read["a"].dtype != read["b"].dtype:
        said = f"a has dtype {read['a'].dtype} and b has dtype {read['b'].dtype}"
        raise InvalidTypeError(f"{said}: both must have one, convert one of them")
    count = options.integer(groups, "groups", groups, "an int that divides the channels and the filters", 1)
    shape = _product_shape(row, read["a"].shape, read["b"].shape, count)
    if accumulate and out is None:
        raise InvalidOptionError(f"accumulate is {accumulate!r} without out: pass the spectrum to add to as out")
    stages = _stages((2, shape[0] - 2), read, stream)  # any tile of so many bins: they are all alike
    product = stages.output(out, shape, read["a"].dtype.name)
    stages.multiply(row, read["a"], read["b"], product, count, bool(accumulate))
    return like(product, a) if out is None else out


def inverse(
    spectrum: Any, size: Any, *, fft_size: Any = None, bias: Any = None, dtype: Any = None, out: Any = None,
    stream: Any = None,
) -> Any:  # fmt: skip
    """Transform a spectrum back, and crop the planes from the corner of their tiles.

    Parameters
    ----------
    spectrum : complex64 or complex128 array [F, N, C]; on a GPU complex64 and C-contiguous.
    size : (H, W) of the planes, in samples, at most as many as fft_size.
    fft_size : that of `transform`; None where both lengths are one.
    bias : array [C] of the dtype of the planes, added to the planes of each column; on a GPU without gaps.
    dtype : of the planes: None is that of the spectrum's parts; of complex64 also 'float16' or 'bfloat16'.
    out : array of the result's shape and dtype to write into.
    stream : CUDA stream; None on a CPU.

    Returns
    -------
    Array [N, C, H, W], float32 or float64 or as asked, in the library of `spectrum`; or `out`, where it is given.

    Raises
    ------
    InvalidShapeError, InvalidOptionError, InvalidTypeError, UnsupportedError, DeviceMismatchError

    Examples
    --------
    >>> planes = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    >>> np.rint(inverse(transform(planes, 8), (3, 4))[0, 0]).astype(int)
    array([[ 0,  1,  2,  3],
           [ 4,  5,  6,  7],
           [ 8,  9, 10, 11]])

    Source: Mathieu, Henaff, LeCun, arXiv 1312.5851.
    """
    given = _spectrum(spectrum, "spectrum")
    read, (F, N, C) = {"spectrum": given}, given.shape
    tile, kind = _tile_of(F, fft_size), _planes_dtype(given, dtype)
    H, W = options.pair(size, "size", size)
    if tile[0] < H or tile[1] < W:
        most = f"{F} bins are of tiles of {tile[0]} x {tile[1]} samples, the largest size here"
        raise InvalidOptionError(f"size is {size!r}: {most}")
    if bias is not None:
        read["bias"] = fitting(bias, "bias", (C,), kind)
    stages = _stages(tile, read, stream)
    planes = stages.output(out, (N, C, H, W), kind)
    stages.inverse(given, planes, read.get("bias"))
    return like(planes, spectrum) if out is None else out


# ---- checks ----------------------------------------------------------------------------------------------------------


def _stages(tile: Size, read: Mapping[str, Any], stream: Any) -> Any:
    """The stages where the arrays lie."""
    check_devices(read)
    if next(iter(read.values())).device == "cpu":
        return cpu_stages.Stages(tile, read, stream)
    from .cuda import stages as cuda_stages

    return cuda_stages.Stages(tile, read, stream)


def _size(fft_size: Any, H: int, W: int) -> Size:
    """Transform lengths that hold planes of this size."""
    if max(H, W) > MAX_FFT:
        said = f"planes of {H} x {W} samples: this version transforms at most {MAX_FFT} x {MAX_FFT}"
        raise UnsupportedError(f"{said}; cut them into windows, as conv2d does")
    rows, columns = (next(T for T in FFT_SIZES if extent <= T) for extent in (H, W))
    return options.fft_size(fft_size, (rows, columns), f"planes of {H} x {W}")


def _tile_of(F: int, fft_size: Any) -> Size:
    """The transform lengths of a spectrum of F bins."""
    if fft_size is not None:
        tile = _size(fft_size, 1, 1)
        if bins(tile) != F:
            said = f"fft_size is {fft_size!r}, which makes {bins(tile)} bins, and the spectrum has {F}"
            raise InvalidOptionError(f"{said}: pass the fft_size of its transform")
        return tile
    if F not in SQUARES:
        raise InvalidOptionError(f"fft_size is None and the spectrum has {F} bins, those of no square: pass fft_size")
    return SQUARES[F]


def _spectrum(value: Any, name: str) -> np.ndarray:
    """A spectrum of some transform length."""
    array = view(value, name)
    if array.dtype not in REAL:
        raise InvalidTypeError(f"{name} has dtype {array.dtype}: a spectrum is complex64 or complex128, see transform")
    if array.ndim != 3 or array.shape[2] == 0:
        raise InvalidShapeError(f"{name} has shape {array.shape}: a spectrum is [F, rows, columns], with columns")
    F = array.shape[0]
    if F not in COUNTS:
        near = min(SQUARES, key=lambda count: abs(count - F))
        said = f"{name} has shape {array.shape}: no transform has {F} bins, and each length is {FFT_RULE}"
        raise InvalidShapeError(f"{said}; the nearest square is {SQUARES[near][0]} with {near}")
    return array


def _planes_dtype(spectrum: np.ndarray, dtype: Any) -> str:
    """Of the planes of a spectrum, as asked for."""
    real = REAL[spectrum.dtype]
    found = real if dtype is None else options.dtype(dtype)
    if dtypes.computed(found) != real:
        fits = ", ".join(name for name in dtypes.NUMPY if dtypes.computed(name) == real)
        raise InvalidTypeError(f"dtype is {dtype!r}: of a spectrum of {spectrum.dtype} it must be {fits}, or None")
    return found


def _product_shape(row: Pass, a: tuple[int, ...], b: tuple[int, ...], groups: int) -> tuple[int, int, int]:
    """The shape of the product of two spectra, which fit each other."""
    first, second, result = row.letters

    def misfit(rule: str) -> InvalidShapeError:
        return InvalidShapeError(f"a, {first}, has shape {a} and b, {second}, has shape {b}: {rule}")

    if a[0] != b[0]:
        raise misfit(f"they have {a[0]} and {b[0]} bins, transform both with one fft_size")
    sizes: dict[str, int] = {}
    for letter, shape in ((first, a), (second, b)):
        for axis, size in zip(AXES[letter], shape[1:], strict=True):
            if sizes.setdefault(axis, size) != size:
                raise misfit(f"{axis} is {sizes[axis]} in {first} and {size} in {second}")
    if not _fits(sizes, groups):
        fits = [g for g in range(1, sizes["K"] + 1) if _fits(sizes, g)]
        rule = f"{first} is [F, {', '.join(AXES[first])}] and {second} is [F, {', '.join(AXES[second])}]"
        near = f"groups={min(fits, key=lambda g: abs(g - groups))} fits" if fits else "no number of groups fits"
        raise misfit(f"{rule}, and groups={groups} must divide C and K; {near}")
    sizes.setdefault("C", groups * sizes.get("C/groups", 0))
    sizes.setdefault("C/groups", sizes["C"] // groups)
    rows, columns = AXES[result]
    return a[0], sizes[rows], sizes[columns]


def _fits(sizes: Mapping[str, int], groups: int) -> bool:
    """Whether so many groups divide the filters and the channels, of which C, C/groups or both are known."""
    K, C = sizes["K"], sizes.get("C", groups * sizes.get("C/groups", 0))
    return K > 0 and K % groups == C % groups == 0 and sizes.get("C/groups", C // groups) == C // groups
