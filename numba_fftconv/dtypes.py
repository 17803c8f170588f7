"""The dtypes of samples, and what each is computed in.

    dtype      bytes  largest  epsilon  computed in
    float16      2    6.5e4    9.8e-4   float32
    bfloat16     2    3.4e38   7.8e-3   float32
    float32      4    3.4e38   1.2e-7   float32
    float64      8    1.8e308  2.2e-16  float64

The two halves are dtypes of arrays alone: a sample becomes a float32 when it is loaded and is rounded once, to nearest
and ties to even, when it is stored; spectra and sums are of float32.

NumPy has no bfloat16. Inside the package such an array has the dtype BFLOAT16, a record of one unsigned integer: it
moves, slices and compares as any other dtype, and NumPy refuses to calculate with its bits. Whoever has ml_dtypes calls
his arrays by another dtype of the same bits (`is_bfloat16`), which is never imported here.
"""

from typing import Any

import numpy as np

BFLOAT16 = np.dtype([("bfloat16", np.uint16)], align=True)
NUMPY = {**{name: np.dtype(name) for name in ("float16", "float32", "float64")}, "bfloat16": BFLOAT16}
NAMES = {dtype: name for name, dtype in NUMPY.items()}  # of native byte order
HALVES = ("float16", "bfloat16")
ANY = "float16, bfloat16, float32 or float64"  # for messages


def name_of(dtype: np.dtype) -> str:
    """What a dtype is called: one of the table, or whatever NumPy calls it.

    >>> name_of(BFLOAT16), name_of(np.dtype("f4")), name_of(np.dtype(">f4"))
    ('bfloat16', 'float32', '>f4')
    """
    return NAMES.get(dtype) or str(dtype)


def numpy_dtype(name: str) -> np.dtype:
    """NumPy's dtype of a name, BFLOAT16 for 'bfloat16'."""
    return NUMPY.get(name) or np.dtype(name)


def computed(name: str) -> str:
    """The dtype that samples are computed in.

    >>> [computed(name) for name in NUMPY]
    ['float32', 'float32', 'float64', 'float32']
    """
    return "float32" if name in HALVES else name


def is_bfloat16(dtype: np.dtype) -> bool:
    """Whether a dtype of another library is bfloat16, as that of ml_dtypes is."""
    return dtype.name == "bfloat16" and dtype.itemsize == 2


def widened(array: np.ndarray) -> np.ndarray:
    """An array in the dtype that its samples are computed in: itself, or the same values in float32.

    >>> widened(np.array([0x3F80, 0xC040], np.uint16).view(BFLOAT16))
    array([ 1., -3.], dtype=float32)
    """
    if array.dtype == BFLOAT16:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def rounded(array: np.ndarray, name: str) -> np.ndarray:
    """An array in the dtype of that name, rounded to nearest, ties to even; what is too large is infinite.

    >>> rounded(np.array([1, 1 + 2**-8, 1 + 3 * 2**-8], np.float32), "bfloat16").view(np.uint16) - 0x3F80
    array([0, 0, 2], dtype=uint16)
    """
    with np.errstate(over="ignore"):
        near = array.astype("float32" if name == "bfloat16" else name)
    if name != "bfloat16":
        return near
    bits = near.view(np.uint32)
    tied = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(array), bits >> 16 | 0x40, tied).astype(np.uint16).view(BFLOAT16)


def named(value: Any) -> str | None:
    """The name in the table that a word, a dtype or a type of any library says, None where it says none.

    >>> named("bfloat16"), named(np.float16), named(">f4"), named("int8"), named(7)
    ('bfloat16', 'float16', None, None, None)
    """
    word = value if isinstance(value, str | type | np.dtype) else str(value).rpartition(".")[2]
    if isinstance(word, str) and word in NUMPY:
        return word
    try:
        found = np.dtype(word)
    except (TypeError, ValueError, SyntaxError):  # NumPy reads some words as Python
        return None
    return "bfloat16" if is_bfloat16(found) else NAMES.get(found)
