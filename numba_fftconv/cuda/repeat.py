"""Calls that were made before: a pass once more, on arrays that lie as they did, wherever they begin.

The long way reads every array as one of NumPy, checks it, and looks its program up: more work than the launches. All
that it finds follows from how the arrays lie (library, shape, strides, dtype, flags, device, the stream that fills
them) and from three properties of their addresses: that samples are aligned, that what is written overlaps nothing
else, and where the workspace has its first boundary. So a call that went well is kept under how its arrays lay; the
next one like it checks the addresses and launches. Whatever is new, or odd in any way, goes the long way, which says
what is wrong with it. What a library knows is asked anew in every call: a tensor may have become another one.

Nothing here allocates where `out` and `workspace` are given, waits, or makes an event where arrays are filled on the
stream of the call: such a call can be captured in a CUDA graph.

Example: y = conv(x, w) on tensors: four arrays are looked at, their addresses compared, four kernels launched.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.lib.array_utils import byte_bounds

from ..spectral import Spectral
from . import arrays, driver
from .arrays import DeviceArray
from .engine import Program
from .libraries import Library
from .schedule import LINE_BYTES

MOST_KEPT = 64  # ways that the arrays of a plan may lie; beyond, all are forgotten
Look = tuple[Any, ...]


class Seen(NamedTuple):
    """How an array lies, and where it begins."""

    look: Look
    pointer: int


def look(value: Any) -> Seen | None:
    """What decides how an array is read; None of what only the long way reads, or refuses."""
    torch = sys.modules.get("torch")
    try:
        if torch is not None and isinstance(value, torch.Tensor):
            flags = value.requires_grad, value.is_neg(), value.is_conj()
            described = value.dtype, tuple(value.shape), value.stride(), value.device.index, flags
            return Seen(described, value.data_ptr())
        if isinstance(value, Spectral):
            return _look_at_spectrum(value)
        if arrays.is_by_dlpack(value):  # whose library is told the stream of each call
            return None
        described = value.__cuda_array_interface__
        if described["typestr"][1:] == "V2":  # bfloat16 or anything else of two bytes
            return None
        pointer, read_only = described["data"]
        index = driver.device_of(pointer)
        form = described["typestr"], tuple(described["shape"]), described.get("strides"), index, read_only
        of_cupy = type(value).__module__.partition(".")[0] == "cupy"
        return Seen((*form, described.get("mask") is None, described.get("stream"), of_cupy), pointer)
    except Exception:  # whatever a class raises that is no array of these kinds
        return None


def _look_at_spectrum(spectrum: Spectral) -> Seen | None:
    held = spectrum.array
    if not isinstance(held, DeviceArray):
        return None
    return Seen((spectrum.made_for, held.shape, held.strides, held.producer), held.pointer)


class Extent(NamedTuple):
    """The bytes of an array, counted from its first sample, and those of a sample."""

    low: int = 0
    high: int = 0
    sample: int = 1


class Repeat:
    """A call with everything decided but addresses and the stream.

    `places` says for each array of the program which argument it is; the last two arguments are result and workspace.
    """

    def __init__(
        self, program: Program, places: Sequence[int], extents: Sequence[Extent], producers: Sequence[int],
        library: Library, shape: tuple[int, ...], dtype: str, workspace: int,
    ) -> None:  # fmt: skip
        self.program, self.places, self.extents = program, tuple(places), tuple(extents)
        self.producers, self.library, self.index = tuple(producers), library, program.device.index
        self.shape, self.dtype, self.workspace = shape, dtype, workspace
        self._apart: tuple[int, ...] = ()  # addresses of the last call: they were in order

    def run(self, addresses: list[int], out: Any, stream: Any, workspace: Any) -> Any:
        """The result, or None where the call must go the long way."""
        if (given := tuple(addresses)) != self._apart:
            if not self._in_order(given):
                return None
            self._apart = given
        queue = self.library.stream(self.index) if stream is None else arrays.handle_of(stream, self.index)
        room = None  # kept until all is queued
        if out is None:
            try:
                out = self.library.empty(self.shape, self.dtype, self.index, queue)
            except MemoryError:
                return None
            if (made := look(out)) is None:
                return None
            addresses[-2] = made.pointer
        if workspace is None:
            try:
                room = arrays.workspace_of(self.library, self.workspace, self.index, queue)
            except (MemoryError, ValueError):
                return None
            if (made := look(room)) is None:
                return None
            addresses[-1] = made.pointer
        addresses[-1] += -addresses[-1] % LINE_BYTES
        others = [producer for producer in self.producers if arrays.differ(producer, queue)]
        for producer in others:
            driver.wait(queue, producer, self.index)
        self.program.launch(tuple([addresses[place] for place in self.places]), queue)
        for producer in others:
            driver.wait(producer, queue, self.index)
        del room
        return out

    def _in_order(self, addresses: tuple[int, ...]) -> bool:
        """Whether samples are aligned and what is written overlaps nothing; an address of 0 is of no array."""
        spans = [(a + e.low, a + e.high) if a else (0, 0) for a, e in zip(addresses, self.extents, strict=True)]
        if any(address % extent.sample for address, extent in zip(addresses, self.extents, strict=True)):
            return False
        for written in (len(spans) - 2, len(spans) - 1):
            low, high = spans[written]
            if any(low < end and start < high for start, end in spans[:written]):
                return False
        return True


class Repeats:
    """The calls of a plan that can be repeated."""

    def __init__(self) -> None:
        self._kept: dict[Look, Repeat] = {}

    def run(self, name: str, operands: Sequence[Any], out: Any, stream: Any, workspace: Any) -> Any:
        """What a call of a pass gives that is like one before; None where there was none."""
        looked = _look_at(name, (*operands, out, workspace))
        if looked is None:
            return None
        key, addresses = looked
        repeat = self._kept.get(key)
        return None if repeat is None else repeat.run(addresses, out, stream, workspace)

    def keep(
        self, name: str, operands: Mapping[str, Any], out: Any, workspace: Any, program: Program,
        named: Mapping[str, DeviceArray], result: str, library: Library, dtype: str, nbytes: int,
    ) -> None:  # fmt: skip
        """Keep a call that went well; `operands` by the names that they have in the program, like its `result`."""
        looked = _look_at(name, (*operands.values(), out, workspace))
        if looked is None or any(isinstance(array.owner, tuple) or not array.size for array in named.values()):
            return
        order = [*operands, result, "workspace"]
        extents = [_extent(each, named[each]) if each in named else Extent() for each in order]
        given = {each: named[each] for each, value in operands.items() if value is not None}
        given |= {each: named[each] for each, value in ((result, out), ("workspace", workspace)) if value is not None}
        producers = {array.producer for array in given.values() if array.producer is not None}
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[looked[0]] = Repeat(
            program, [order.index(each) for each in program.names], extents, sorted(producers), library,
            named[result].shape, dtype, nbytes,
        )  # fmt: skip


def _extent(name: str, array: DeviceArray) -> Extent:
    """Of a workspace, which was cut to whole lines: what it may have had besides, too."""
    low, high = (end - array.pointer for end in byte_bounds(array))
    return Extent(low, high + LINE_BYTES) if name == "workspace" else Extent(low, high, array.itemsize)


def _look_at(name: str, values: Sequence[Any]) -> tuple[Look, list[int]] | None:
    """How all arrays of a call lie, and where they begin; 0 stands for one that is not given."""
    looks: list[Any] = [name]
    addresses = []
    for value in values:
        if value is None:
            looks.append(None)
            addresses.append(0)
            continue
        seen = look(value)
        if seen is None:
            return None
        looks.append(seen.look)
        addresses.append(seen.pointer)
    return tuple(looks), addresses
