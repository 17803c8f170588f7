"""The three stages on arrays in CUDA memory, as programs of one step: kernels bound once to shapes and strides.

In the engine's workspace every bin begins a line; a caller's spectrum has no gaps. Kernels copy it 16 bytes at a time
where its rows allow that, so it begins at a multiple of 16 bytes, as every allocation does, and every spectrum of a
stack of spectra: the number of bins is even.
"""

from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from .. import arrays as every
from ..errors import InvalidOptionError, UnsupportedError
from ..geometry import PlaneMap
from ..integers import Size
from ..passes import Pass
from . import arrays, engine
from .arrays import DeviceArray
from .call import device, launch
from .driver import Device
from .engine import Lie, Program
from .middle import Region, region_bytes
from .schedule import MOST_PLANES, MOST_WINDOWS, Inverse, Multiply, Spectrum, Step, Transform

ALIGNMENT = 16  # bytes
KEPT = 1024  # programs of each stage
Rows = tuple[int, int]  # of a bin of a spectrum: how many, and how long


class Stages:
    """The stages of one call on its stream; what it is given has been checked, but for what a GPU asks beyond that."""

    def __init__(self, size: Size, read: Mapping[str, DeviceArray], stream: Any) -> None:
        self.size, self.read, self.first = size, read, next(iter(read.values()))
        self.device, self.stream = device(self.first.index), arrays.stream_of(stream, self.first)
        for name, array in read.items():
            _check(array, name)

    def output(self, out: Any, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """`out`, checked, or a new array of the library of the call."""

        def empty(shape: tuple[int, ...], dtype: str) -> DeviceArray:
            return arrays.empty(shape, dtype, self.first, self.stream)

        made: Any = every.output(out, shape, dtype, self.read, empty)
        _check(made, "out")
        return made

    def transform(self, planes: DeviceArray, spectrum: DeviceArray) -> None:
        """One launch, or more for a large size."""
        if spectrum.size:
            program = _transform(self.size, Lie.of(planes), self.device)
            launch(program, {"planes": planes, "spectrum": spectrum, **self._middle(planes)}, self.stream)

    def multiply(
        self, row: Pass, a: DeviceArray, b: DeviceArray, y: DeviceArray, groups: int, accumulate: bool
    ) -> None:
        """One launch, or several where there are many groups."""
        if y.size:
            extents = tuple([array.shape[1:] for array in (a, b, y)])
            program = _multiply(row, self.size, extents, groups, accumulate, self.device)
            launch(program, {"a": a, "b": b, "y": y}, self.stream)

    def inverse(self, spectrum: DeviceArray, planes: DeviceArray, bias: DeviceArray | None) -> None:
        """One launch, or more for a large size."""
        if planes.size:
            program = _inverse(self.size, Lie.of(planes), bias is not None, self.device)
            named = {"spectrum": spectrum, "output": planes} | ({} if bias is None else {"bias": bias})
            launch(program, named | self._middle(planes), self.stream)

    def _middle(self, planes: DeviceArray) -> dict[str, DeviceArray]:
        """Memory between the two passes of a large transform."""
        nbytes = region_bytes(self.size, prod(planes.shape[:2]))
        return {"workspace": arrays.workspace(nbytes, self.first, self.stream)} if nbytes else {}


def _check(array: DeviceArray, name: str) -> None:
    """Raise where kernels cannot run on an array as it lies."""
    every.check_aligned(array, name)
    if array.dtype in (np.float64, np.complex128):
        rule = "on a GPU this version has no double precision; on a CPU it has"
        raise UnsupportedError(f"{name} has dtype {array.dtype}: {rule}")
    if array.ndim == 4:  # planes
        return
    if not array.flags.c_contiguous:
        rule = "a GPU reads and writes it as it lies, pass a C-contiguous copy"
        raise UnsupportedError(f"{name} of shape {array.shape} and strides {array.strides} bytes has gaps: {rule}")
    if array.dtype == np.complex64 and array.size and array.pointer % ALIGNMENT:
        rule = f"on a GPU it must begin at a multiple of {ALIGNMENT} bytes, as new arrays do"
        raise InvalidOptionError(f"{name} of shape {array.shape} begins at address {array.pointer:#x}: {rule}")
    if array.ndim == 3 and array.shape[1] * array.shape[2] >= MOST_PLANES:
        rule = f"this version runs less than {MOST_PLANES:,} on a GPU"
        raise UnsupportedError(f"{name} of shape {array.shape} has too many planes: {rule}")


# ---- programs --------------------------------------------------------------------------------------------------------


def _spectrum(name: str, size: Size, rows: Rows) -> Spectrum:
    return Spectrum(name, 0, size, *rows, line=1)


def _spectrum_and_middle(size: Size, rows: Rows) -> tuple[Spectrum, Region]:
    return _spectrum("spectrum", size, rows), Region("workspace", 0, region_bytes(size, prod(rows)))


def _program(size: Size, step: Step, lies: Mapping[str, Lie], has_bias: bool, device: Device) -> Program:
    rows, columns = (PlaneMap(0, 0, 1, 0, T, 1) for T in size)  # sample i at position i
    return Program(engine.calls([step], {"corner": (rows, columns)}, lies, has_bias, device), device)


@lru_cache(KEPT)
def _transform(size: Size, planes: Lie, device: Device) -> Program:
    images, channels, _, _ = planes.shape
    step = Transform("planes", "corner", 0, *_spectrum_and_middle(size, (images, channels)))
    return _program(size, step, {"planes": planes}, False, device)


@lru_cache(KEPT)
def _inverse(size: Size, planes: Lie, has_bias: bool, device: Device) -> Program:
    images, channels, _, _ = planes.shape
    step = Inverse("output", "corner", 0, *_spectrum_and_middle(size, (images, channels)))
    return _program(size, step, {"output": planes}, has_bias, device)


@lru_cache(KEPT)
def _multiply(
    row: Pass, size: Size, extents: tuple[Rows, Rows, Rows], groups: int, accumulate: bool, device: Device
) -> Program:
    spectra = [_spectrum(name, size, rows) for name, rows in zip(("a", "b", "y"), extents, strict=True)]
    of = dict(zip(row.letters, spectra, strict=True))
    weight = next(spectrum for letter, spectrum in of.items() if letter in ("W", "dW"))
    windows = next(spectrum.rows for letter, spectrum in of.items() if spectrum is not weight)
    if windows > MOST_WINDOWS:
        raise UnsupportedError(f"{windows:,} images: this version multiplies at most {MOST_WINDOWS:,} of them on a GPU")
    a, b, y = spectra if row.name != "weight_grad" else (spectra[1], spectra[0], spectra[2])
    step = Multiply(row.name, a, b, y, windows, weight.columns, weight.rows // groups, groups, accumulate)
    return _program(size, step, {}, False, device)


def forget() -> None:
    """Drop all programs."""
    for made in (_transform, _inverse, _multiply):
        made.cache_clear()
