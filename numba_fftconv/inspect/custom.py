"""A kernel of the caller's: `module:kernel`, importable from the current directory, and arguments to run a block with.

It may be a `Kernel` of cuda/toolchain, a function, or what @cuda.jit made of one. Arrays are passed as Numba passes
them, a parameter for each of parent, size, pointer, extents and strides; a pointer type takes an array as one.

    python -m numba_fftconv inspect mine:scale --signature "float32[::1], float32[::1], float32" --threads 128
        --launch "zeros(4096) arange(4096) 0.5" --grid 32
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core import sigutils
from numba.np import numpy_support

from ..cuda.toolchain import Kernel
from ..errors import InvalidOptionError
from .compiled import one_line
from .report import Launch, Subject

Shape = tuple[int, int, int]
UNHEEDED = ("fastmath", "debug", "link")  # options of @cuda.jit: kernels are compiled as the package compiles its own
LARGEST = 2**26  # bytes of an array to run a block with
MAKERS: dict[str, Callable[[tuple[int, ...]], np.ndarray]] = {
    "zeros": np.zeros,
    "ones": np.ones,
    "arange": lambda shape: np.arange(prod(shape)).reshape(shape),
}
_WORD = re.compile(rf"\s*(?:({'|'.join(MAKERS)})\(([\d,\s]+)\)|([-+]?[\d.]+(?:e[-+]?\d+)?))(?=\s|$)")


class Given(NamedTuple):
    """What the caller says of a kernel beyond its name; None where nothing is said."""

    signature: str | None = None
    threads: Shape | None = None
    shared: int | None = None
    launch: str | None = None
    grid: Shape = (1, 1, 1)


def subject(place: str, given: Given) -> Subject:
    """The kernel at a place, 'module:kernel'."""
    found = _find(place)
    kernel = _as_said(found, given) if isinstance(found, Kernel) else _typed(place, found, given)
    about = f"{place}, {kernel.threads} threads and {kernel.shared_bytes:,} bytes of dynamic shared memory a block"
    if unheeded := [name for name in UNHEEDED if _options(found).get(name)]:
        about += f"; compiled without its {' and '.join(unheeded)}"
    if given.launch is None:
        missing = 'give --launch its arguments, such as "zeros(4096) 7", to run a block'
        return Subject(kernel, about, None, None, missing)
    arguments = list(_arguments(given.launch, kernel.signature))
    if types.float64 in kernel.signature:
        return Subject(kernel, about, None, None, "no block runs with a float64 among its arguments")
    return Subject(kernel, about, Launch(given.grid, given.threads or (kernel.threads, 1, 1), arguments), None)


def _find(place: str) -> Any:
    module_name, _, name = place.partition(":")
    if not (module_name and name):
        ours = "product, transform, inverse"
        raise InvalidOptionError(f"{place!r} is no kernel: it must be one of {ours}, or module:kernel of your own")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the caller's module raises
        raise InvalidOptionError(f"module {module_name} cannot be imported: {_named(error)}") from error
    found = getattr(module, name, None)
    if found is None or not (isinstance(found, Kernel) or callable(found)):
        kernels = [key for key, value in vars(module).items() if _is_kernel(value)]
        have = f"its kernels are {', '.join(kernels)}" if kernels else "nor any Kernel, nor what @cuda.jit made"
        raise InvalidOptionError(f"module {module_name} has no kernel {name!r}: {have}")
    return found


def _as_said(kernel: Kernel, given: Given) -> Kernel:
    """A Kernel knows its own types, threads and bytes."""
    said = {"signature": given.signature, "threads": given.threads, "shared": given.shared}
    if doubled := [f"--{name}" for name, value in said.items() if value is not None]:
        raise InvalidOptionError(f"{kernel.name} is a Kernel and says {', '.join(doubled)} itself: leave that away")
    return kernel


def _is_kernel(value: Any) -> bool:
    return isinstance(value, Kernel) or (hasattr(value, "py_func") and not _options(value).get("device"))


def _options(found: Any) -> dict[str, Any]:
    """Those of @cuda.jit."""
    options: dict[str, Any] = getattr(found, "targetoptions", {})
    return options


def _typed(place: str, found: Any, given: Given) -> Kernel:
    if _options(found).get("device"):
        raise InvalidOptionError(f"{place} is a device function: give a kernel that calls it")
    if given.signature is None:
        raise InvalidOptionError(f'{place} has no types: give --signature "float32[::1], int32", in Numba\'s syntax')
    try:
        signature, _ = sigutils.normalize_signature(f"void({given.signature})")
    except Exception as error:  # it is evaluated
        raise InvalidOptionError(f"signature is {given.signature!r}: {_named(error)}") from error
    if given.shared is not None and given.shared < 0:
        raise InvalidOptionError(f"shared is {given.shared}: it must be bytes, 0 or more")
    threads, function = given.threads or (128, 1, 1), getattr(found, "py_func", found)
    return Kernel(
        place, function, tuple(signature), prod(threads), given.shared or 0,
        most_registers=_options(found).get("max_registers"),
    )  # fmt: skip


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _arguments(text: str, signature: Sequence[Any]) -> Iterator[Any]:
    """The words of --launch as the types of a signature."""
    at, words = 0, []
    while text[at:].strip():
        word = _WORD.match(text, at)
        if word is None:
            forms = f"numbers and {', '.join(f'{name}(extents)' for name in MAKERS)}, blanks between"
            raise InvalidOptionError(f"launch has {text[at:].strip()!r}: it must be {forms}")
        words.append(word)
        at = word.end()
    if len(words) != len(signature):
        raise InvalidOptionError(f"launch has {len(words)} arguments: the kernel takes {len(signature)}")
    for number, (word, kind) in enumerate(zip(words, signature, strict=True)):
        yield from _argument(word, kind, number)


def _argument(word: re.Match[str], kind: Any, number: int) -> Iterator[Any]:
    is_array, pointer = isinstance(kind, types.Array), isinstance(kind, types.CPointer)
    if bool(word[1]) != (is_array or pointer):
        wanted = "an array, such as zeros(4096)" if is_array or pointer else "a number"
        raise InvalidOptionError(f"argument {number} of launch is {word[0].strip()}: {kind} wants {wanted}")
    if not word[1]:
        if not isinstance(kind, types.Integer | types.Float | types.Boolean):
            raise InvalidOptionError(f"argument {number} has type {kind}: launch gives arrays and numbers")
        yield float(word[3]) if isinstance(kind, types.Float) else int(float(word[3]))
        return
    dtype = numpy_support.as_dtype(kind.dtype)
    shape = tuple(int(extent) for extent in word[2].split(",") if extent.strip())
    if is_array and kind.ndim != len(shape):
        raise InvalidOptionError(f"argument {number} of launch has extents {shape}: {kind} has {kind.ndim}")
    if prod(shape) * dtype.itemsize > LARGEST:
        raise InvalidOptionError(f"argument {number} of launch has {prod(shape):,} elements: a block needs fewer")
    array = MAKERS[word[1]](shape).astype(dtype)
    if pointer:
        yield array
    else:
        strides = np.empty(shape, dtype, order="F" if kind.layout == "F" else "C").strides
        yield from (0, 0, array.size, array.itemsize, array, *shape, *strides)


def shape_of(text: str, name: str, most: int) -> Shape:
    """'128' or '16x16' as three extents.

    >>> shape_of("16x8", "threads", 1024)
    (16, 8, 1)
    """
    parts = text.split("x")
    if len(parts) > 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise InvalidOptionError(f"{name} is {text!r}: it must be extents such as 128 or 16x16")
    x, y, z = map(int, [*parts, "1", "1"][:3])
    if x * y * z > most:
        raise InvalidOptionError(f"{name} is {text!r}, {x * y * z:,}: it must be at most {most:,}")
    return x, y, z
