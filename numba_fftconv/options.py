"""What a caller may say, read into plain numbers and words; what makes no sense raises with the value and the rule.

Messages are built where they are raised: most calls are right, and of a small layer their words would cost more than
the arithmetic.
"""

import math
import operator
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import dtypes
from .errors import FFTConvError, InvalidOptionError, InvalidShapeError, InvalidTypeError, UnsupportedError
from .integers import Size

Pair = tuple[int, int]
LARGEST = 2**40  # of every number of samples that a caller gives: positions then stay far below 2**63
MAX_FFT = 256
PRECISIONS = {"float32": ("fp32", "tf32x3", "bf16x3", "tf32"), "float64": ("fp64",)}  # by the dtype of arithmetic

SAVES = {"none": (), "input": ("input",), "weight": ("weight",), "all": ("input", "weight")}

INPUT_FORM, WEIGHT_FORM = "(N, C, H, W) or (C, H, W)", "(K, C/groups, R, S)"
PAIR_FORM = "an int or a pair (rows, columns)"
PADDING_FORM = "an int, (rows, columns), ((top, bottom), (left, right)), 'valid' or 'same'"
FFT_RULE = "an even product of 2, 3, 5, 7 up to 64, or 128 or 256"
FFT_FORM = f"{FFT_RULE}, or a pair of them (rows, columns)"


def _is_fft_size(n: int) -> bool:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


CODELET_SIZES: tuple[int, ...] = tuple(n for n in range(2, 65, 2) if _is_fft_size(n))  # a thread transforms in one go
FFT_SIZES: tuple[int, ...] = (*CODELET_SIZES, 128, MAX_FFT)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def integer(
    value: Any, name: str, whole: Any, form: str, least: float,
    most: float = LARGEST, error: type[FFTConvError] = InvalidOptionError,
) -> int:  # fmt: skip
    """`value` as an int from `least` to `most`; it is, or is part of, `whole`, which the caller gave as `name`."""
    if type(value) is int and least <= value <= most:
        return value
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except Exception:  # whatever the caller's own class raises
        number = None
    if number is not None and least <= number <= most:
        return number
    said = f"{name} is {whole!r}"
    if number is None:
        raise error(f"{said}: {value!r} is not an integer, and it must be {form}")
    if number < least:
        raise error(f"{said}: {number} is too small, the least is {least}")
    raise UnsupportedError(f"{said}: {number} is more than {most}, the largest that this version handles")


def items(value: Any) -> tuple[Any, ...]:
    """What a sequence holds in its order; nothing of words, bytes, sets, mappings and whatever else can be iterated."""
    if isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim):
        return tuple(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        return tuple(value)
    return ()


def two(value: Any, name: str, whole: Any, form: str) -> tuple[Any, Any]:
    """What `value` says of the rows and of the columns; a single number says the same of both."""
    if isinstance(value, int) or (hasattr(type(value), "__index__") and not getattr(value, "shape", ())):
        return value, value
    found = items(value)
    if len(found) != 2:
        raise InvalidOptionError(f"{name} is {whole!r}: it must be {form}")
    return found


def pair(value: Any, name: str, whole: Any, form: str = PAIR_FORM, least: int = 1) -> Pair:
    """Two integers, of the rows and of the columns."""
    if type(value) is int and least <= value <= LARGEST:
        return value, value
    rows, columns = two(value, name, whole, form)
    return integer(rows, name, whole, form, least), integer(columns, name, whole, form, least)


# ---- a layer ---------------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A layer in the caller's words, read: whatever forms they had, equal layers are equal."""

    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int


def layer(input_shape: Any, weight_shape: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> Layer:
    """Read each by itself; whether they fit together is the geometry's affair (geometry.py)."""
    images = _shape(input_shape, "input shape", INPUT_FORM, {4: (0, 1, 1, 1), 3: (1, 1, 1)})
    kernel = _shape(weight_shape, "weight shape", WEIGHT_FORM, {4: (1, 1, 1, 1)})
    strides, dilations = pair(stride, "stride", stride), pair(dilation, "dilation", dilation)
    count = integer(groups, "groups", groups, "an int that divides the channels and the filters", 1)
    return Layer(images, kernel, strides, pads(padding, kernel[2:], strides, dilations), dilations, count)


def _shape(value: Any, name: str, form: str, least: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The sizes in `value`; `least` holds their least values by rank."""
    sizes = items(value)
    if len(sizes) not in least:
        raise InvalidShapeError(f"{name} is {sizes or value!r}, which is {len(sizes)} sizes: it must be {form}")
    limits = zip(sizes, least[len(sizes)], strict=True)
    return tuple([integer(size, name, sizes, form, low, error=InvalidShapeError) for size, low in limits])


def pads(value: Any, taps: Sequence[int], stride: Pair, dilation: Pair) -> tuple[Pair, Pair]:
    """Zeros ((above, below), (left, right)) around an input, for a kernel of so many taps."""
    if not isinstance(value, str):
        rows, columns = two(value, "padding", value, PADDING_FORM)
        above, beside = (pair(side, "padding", value, PADDING_FORM, least=0) for side in (rows, columns))
        return above, beside
    if value not in ("valid", "same"):
        raise InvalidOptionError(f"padding is {value!r}: it must be {PADDING_FORM}")
    if value == "valid":
        return (0, 0), (0, 0)
    if stride != (1, 1):
        raise InvalidOptionError(f"padding is 'same' and stride is {stride}: 'same' needs stride 1, or give numbers")
    height, width = ((n - 1) * d for n, d in zip(taps, dilation, strict=True))
    return (height // 2, height - height // 2), (width // 2, width - width // 2)


# ---- a plan ----------------------------------------------------------------------------------------------------------


def dtype(value: Any) -> str:
    """The name of a dtype of NumPy or ml_dtypes, or of a library whose dtypes print as torch's do."""
    found = dtypes.named(value)
    if found is None:
        raise InvalidTypeError(f"dtype is {value!r}: it must be {dtypes.ANY}")
    return found


def precision(value: Any, dtype: str) -> str:
    """The arithmetic of the multiply stage; None is the dtype's own."""
    words = PRECISIONS[dtypes.computed(dtype)]
    if value is None:
        return words[0]
    if not isinstance(value, str) or value not in words:
        raise InvalidOptionError(f"precision is {value!r}: for {dtype} it must be None or one of {', '.join(words)}")
    return str(value)


def fft_size(value: Any, least: Size, held: str = "this kernel") -> Size:
    """Two of FFT_SIZES, of rows and columns, from `least` on, the first that hold what the words `held` say."""
    sides = two(value, "fft_size", value, FFT_FORM)
    rows, columns = (integer(side, "fft_size", value, FFT_FORM, -math.inf, math.inf) for side in sides)
    for side, low, axis in ((rows, least[0], "rows"), (columns, least[1], "columns")):
        if side not in FFT_SIZES or side < low:
            near = min((T for T in FFT_SIZES if low <= T), key=lambda T: abs(T - side))
            rule = f"{FFT_RULE}, and {axis} must be at least {low} to hold {held}"
            raise InvalidOptionError(f"fft_size is {value!r}: a side must be {rule}; the nearest to {side} is {near}")
    return rows, columns


def workspace_limit(value: Any) -> int:
    """Bytes."""
    return integer(value, "workspace_limit", value, "a positive int, in bytes, or None", 1, math.inf)


def save(value: Any) -> tuple[str, ...]:
    """Which spectra of a forward pass may be kept for its gradients."""
    if not isinstance(value, str) or value not in SAVES:
        raise InvalidOptionError(f"save is {value!r}: it must be one of {', '.join(SAVES)}")
    return SAVES[value]


def save_limit(value: Any) -> float:
    """Bytes; None is any number."""
    return math.inf if value is None else integer(value, "save_limit", value, "an int, in bytes, or None", 0, math.inf)


def path(value: Any, name: str) -> Path:
    """A file."""
    if isinstance(value, str | os.PathLike) and value:
        return Path(os.fsdecode(value))
    raise InvalidOptionError(f"{name} is {value!r}: it must be a path, True for the file of this user, or None")


def device(value: Any, gpus: Collection[str]) -> str:
    """Where a plan runs: 'cpu', which None is, 'cuda' or 'cuda:1'; or one of `gpus`, whose plans can be read only."""
    known = ", ".join(gpus)
    if value is None:
        return "cpu"
    word = value if isinstance(value, str) else ""
    kind, colon, number = word.partition(":")
    if word == "cpu" or word in gpus or word == "cuda" or (kind == "cuda" and number.isdecimal() and colon):
        return str(word)
    if kind.startswith("sm_") and kind.removeprefix("sm_").isdecimal() and not colon:
        raise UnsupportedError(f"device is {value!r}: this version has the figures of {known}")
    rule = f"it must be 'cpu', 'cuda', 'cuda:1' or, to plan only, one of {known}"
    raise InvalidOptionError(f"device is {value!r}: {rule}")


def on_gpu(dtype: str) -> None:
    """Raise UnsupportedError for what the CUDA engine has no kernels for."""
    if dtypes.computed(dtype) != "float32":
        on_gpu = "on a GPU this version has float16, bfloat16 and float32"
        raise UnsupportedError(f"dtype is {dtype}: {on_gpu}; on a CPU it has {dtype} too")


def output_mask(value: Any) -> tuple[bool, bool, bool]:
    """Which gradients are wanted: of the input, the weight and the bias."""
    flags = items(value)
    if len(flags) != 3 or not all(isinstance(f, int | np.integer | np.bool_) and f in (0, 1) for f in flags):
        raise InvalidOptionError(f"output_mask is {value!r}: it must be three bools, for input, weight and bias")
    return bool(flags[0]), bool(flags[1]), bool(flags[2])
