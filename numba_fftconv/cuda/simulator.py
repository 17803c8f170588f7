"""Kernels as plain Python: a scheduler for Numba's CUDA simulator that runs every lane of a block, one at a time.

Under NUMBA_ENABLE_CUDASIM=1 a kernel is an ordinary function. Numba's own simulator gives each lane an OS thread, polls
at barriers for 25 ms, and knows nothing of a warp. Here a lane is a greenlet, a stack that is entered and left by hand:
one switch to go on, one back at a barrier. So a run is deterministic, and three mistakes show that a GPU may hide:

- What was never written is NaN. Shared memory of every block and every local array begin as bytes 0xFF, which is NaN in
  float16, 32 and 64 and -1 in signed integers.
- A missing barrier. Lanes of a block run up to a barrier one after another, in the order of their numbers or, with
  `install(permute=seed)`, in an order drawn anew after each barrier: whoever needs a value early then finds a poison.
- Lanes that wait for each other. A barrier waits for all lanes that have not returned (as on sm_70 and later, where a
  lane that has left is not waited for); lanes held at two different barriers are a `Deadlock`, even where hardware
  would let the two match, since CUDA leaves that undefined.

Blocks run one after another, under `permute` in an order drawn as well. An index out of a `Memory` is an IndexError,
and every error names kernel, block and thread; a negative index of a shared or local array counts from its end, as
NumPy has it.

The words that Numba knows only within a kernel (cuda.threadIdx, cuda.shared, cuda.syncwarp) become attributes of the
module numba.cuda. Numba would swap the name `cuda` in the globals of each function at each call instead, for 8 us.
"""

import contextlib
import contextvars
import itertools
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from functools import cache
from operator import add, mul
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, types

from ..errors import FFTConvError, UnsupportedError
from ..gpus import WARP
from .memory import as_passed, numpy_type
from .toolchain import SIMULATED, Kernel

try:
    import greenlet
except ImportError:
    greenlet = None

EVERY_LANE = 0xFFFFFFFF

# Words of a kernel that Numba's simulator does well enough, and those that this scheduler brings.
STOCK_WORDS = ("atomic", "brev", "cbrt", "clz", "const", "ffs", "fma", "fp16", "popc", "selp")
FENCES = ("threadfence", "threadfence_block", "threadfence_system")
BARRIERS = ("syncthreads", "syncthreads_count", "syncthreads_and", "syncthreads_or", "syncwarp")
COLLECTIVES = ("shfl_sync", "shfl_xor_sync", "shfl_up_sync", "shfl_down_sync", "ballot_sync", "all_sync", "any_sync")
PLACES = ("grid", "gridsize", "local", "shared", "warpsize")


class Deadlock(FFTConvError, RuntimeError):
    """Lanes of a block wait at different barriers, so that none can go on."""


def install(permute: int | None = None) -> None:
    """Put this scheduler under Numba's simulator; `permute` seeds the order of lanes, None runs them by their numbers.

    Every launch starts from the seed again, so that it can be repeated alone. Calling it again only changes the order.
    """
    _replace_numbas_scheduler()
    _scheduler.seed = permute


def run(kernel: Kernel, grid: int | tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    """Run a kernel on a grid of blocks. A pointer is a `Memory`, an array, or None for one that is never read."""
    _replace_numbas_scheduler()
    if len(arguments) != len(kernel.signature):
        raise TypeError(f"{kernel.name} takes {len(kernel.signature)} arguments, got {len(arguments)}")
    given = tuple(as_passed(kind, value) for kind, value in zip(kernel.signature, arguments, strict=True))
    extent = Triple(*grid) if isinstance(grid, tuple) else Triple(grid)
    _scheduler.launch(_Launch(kernel.name, kernel.function, extent, Triple(kernel.threads), kernel.shared_bytes, given))


class Triple(NamedTuple):
    """An index or an extent in blocks or threads."""

    x: int
    y: int = 1
    z: int = 1


def _all_indices(extent: Triple) -> list[Triple]:
    """Every index below an extent, x fastest."""
    return [Triple(x, y, z) for z, y, x in itertools.product(range(extent.z), range(extent.y), range(extent.x))]


class _Launch(NamedTuple):
    name: str
    function: Callable[..., None]
    grid: Triple
    threads: Triple
    shared_bytes: int
    arguments: tuple[Any, ...]


class _Lane:
    """A thread of a block: its stack, and while it waits at a barrier, which one and what it tells the others there."""

    __slots__ = ("frame", "heard", "index", "number", "offer", "stack", "waits")

    def __init__(self, number: int, place: Triple, stack: Any) -> None:
        self.number, self.index, self.stack = number, place, stack
        self.waits: Any = None  # (mask of a warp, or None for the block; code; instruction)
        self.frame: Any = None
        self.offer: Any = None
        self.heard: Any = None


class _Scheduler:
    """Runs launches; its methods without an underscore are words of numba.cuda, called by the lane that runs."""

    def __init__(self) -> None:
        self.local, self.shared = SimpleNamespace(array=self._local_array), SimpleNamespace(array=self._shared_array)
        self.seed: int | None = None
        self._one_block = threading.RLock()
        self._stacks_of_thread = threading.local()
        self._words = vars(cuda)
        self._hub: Any
        self._lane: _Lane
        self._dynamic: np.ndarray
        self._arrays: dict[Any, np.ndarray] = {}

    # Barriers: tell the others something, go to sleep, and wake with what they told.

    def _wait(self, mask: int | None, offer: Any = None) -> Any:
        lane = self._lane
        lane.frame = frame = sys._getframe(2)
        lane.waits = mask, frame.f_code, frame.f_lasti
        lane.offer = offer
        self._hub.switch()
        return lane.heard

    def syncthreads(self) -> None:
        self._wait(None)

    def syncthreads_count(self, predicate: Any) -> int:
        return sum(map(bool, self._wait(None, predicate).values()))

    def syncthreads_and(self, predicate: Any) -> int:
        return int(all(self._wait(None, predicate).values()))

    def syncthreads_or(self, predicate: Any) -> int:
        return int(any(self._wait(None, predicate).values()))

    def syncwarp(self, mask: Any = EVERY_LANE) -> None:
        self._wait(int(mask) & EVERY_LANE)

    def shfl_sync(self, mask: Any, value: Any, source: Any) -> Any:
        return self._from_lane(int(source) % WARP, self._wait(int(mask) & EVERY_LANE, value))

    def shfl_xor_sync(self, mask: Any, value: Any, flipped: Any) -> Any:
        return self._from_lane(self._lane.number % WARP ^ int(flipped), self._wait(int(mask) & EVERY_LANE, value))

    def shfl_up_sync(self, mask: Any, value: Any, distance: Any) -> Any:
        lane = self._lane.number % WARP
        source = lane - int(distance)
        return self._from_lane(source if source >= 0 else lane, self._wait(int(mask) & EVERY_LANE, value))

    def shfl_down_sync(self, mask: Any, value: Any, distance: Any) -> Any:
        lane = self._lane.number % WARP
        source = lane + int(distance)
        return self._from_lane(source if source < WARP else lane, self._wait(int(mask) & EVERY_LANE, value))

    def ballot_sync(self, mask: Any, predicate: Any) -> int:
        return sum(1 << lane % WARP for lane, said in self._wait(int(mask) & EVERY_LANE, predicate).items() if said)

    def all_sync(self, mask: Any, predicate: Any) -> bool:
        return all(self._wait(int(mask) & EVERY_LANE, predicate).values())

    def any_sync(self, mask: Any, predicate: Any) -> bool:
        return any(self._wait(int(mask) & EVERY_LANE, predicate).values())

    def _from_lane(self, lane: int, heard: dict[int, Any]) -> Any:
        number = self._lane.number // WARP * WARP + lane
        if number not in heard:
            raise LookupError(f"a shuffle reads from lane {lane} of the warp, which takes no part in it")
        return heard[number]

    # Places.

    warpsize = WARP

    def grid(self, axes: int) -> Any:
        first = map(mul, self._words["blockIdx"], self._words["blockDim"])
        place = tuple(map(add, first, self._words["threadIdx"]))
        return place[0] if axes == 1 else place[:axes]

    def gridsize(self, axes: int) -> Any:
        size = tuple(map(mul, self._words["gridDim"], self._words["blockDim"]))
        return size[0] if axes == 1 else size[:axes]

    # Arrays, as cuda.local.array and cuda.shared.array. `alignment` is a promise to the machine: nothing here needs it.

    def _local_array(self, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
        return _poisoned(shape, dtype).copy()

    def _shared_array(self, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
        """Dynamic shared memory for shape 0; else the one array of the block that this call in the source stands for.

        Two closures of one function that ask for the same shape and type cannot be told apart: they share the array.
        """
        frame = sys._getframe(1)
        key = (frame.f_code, frame.f_lasti, shape, dtype) if shape else dtype
        if key not in self._arrays:
            self._arrays[key] = _poisoned(shape, dtype).copy() if shape else _whole_elements(self._dynamic, dtype)
        return self._arrays[key]

    # Launches.

    def launch(self, launch: _Launch) -> None:
        draw = self._fresh_draw()
        blocks = _all_indices(launch.grid)
        if draw:
            draw.shuffle(blocks)
        for block in blocks:
            self.run_block(launch, block, draw)

    def _fresh_draw(self) -> random.Random | None:
        return None if self.seed is None else random.Random(self.seed)

    def run_block(self, launch: _Launch, block: Triple, draw: random.Random | None) -> None:
        """Let all lanes that may go on run up to where each waits or returns, again until all have returned."""
        with self._one_block, np.errstate(over="ignore"):  # unsigned numbers wrap round
            words = self._words
            words["gridDim"], words["blockDim"], words["blockIdx"] = launch.grid, launch.threads, block
            self._dynamic, self._arrays = _poisoned(launch.shared_bytes, types.uint8).copy(), {}
            lanes = self._fresh_lanes(launch.threads)
            ready = lanes
            given: tuple[Any, ...] = launch.function, launch.arguments  # which a lane takes when it starts
            try:
                while ready:
                    for lane in draw.sample(ready, len(ready)) if draw else ready:
                        words["threadIdx"], words["laneid"] = lane.index, lane.number % WARP
                        self._lane, lane.waits = lane, None
                        lane.stack.switch(*given)
                    given = ()
                    ready = _released(f"{launch.name}, block {tuple(block)}", [lane for lane in lanes if lane.waits])
            except BaseException as error:
                for lane in lanes:
                    lane.stack.throw()  # unwinds what still stands
                self._stacks().clear()
                if isinstance(error, Exception) and not isinstance(error, Deadlock):
                    at = f"{launch.name}, block {tuple(block)}, thread {tuple(self._lane.index)}"
                    error.args = (f"{at}: {error}",)
                raise

    def _fresh_lanes(self, threads: Triple) -> list[_Lane]:
        self._hub = greenlet.getcurrent()
        places, stacks = _all_indices(threads), self._stacks()
        for _ in places[len(stacks) :]:
            stacks.append(greenlet.greenlet(self._serve))
            stacks[-1].switch()
        for stack in stacks:
            stack.parent = self._hub  # where errors go
            stack.gr_context = contextvars.copy_context()  # which holds NumPy's errstate
        return [_Lane(number, *lane) for number, lane in enumerate(zip(places, stacks, strict=False))]

    def _stacks(self) -> list[Any]:
        """Those of this OS thread, kept for its next block: to start one costs as much as ten barriers."""
        return self._stacks_of_thread.__dict__.setdefault("stacks", [])

    def _serve(self) -> None:
        """What a stack runs: one lane after another, holding on to nothing in between."""
        while True:
            function, arguments = self._hub.switch()
            function(*arguments)
            del function, arguments


def _released(where: str, waiting: list[_Lane]) -> list[_Lane]:
    """The lanes that may go on, of all that have not returned, each of which waits at some barrier."""
    if not waiting:
        return []
    first = waiting[0].waits
    if first[0] is None and all(lane.waits == first for lane in waiting):
        return _meet(waiting)
    ready = []
    for _, lanes in itertools.groupby(waiting, lambda lane: lane.number // WARP):
        warp = list(lanes)
        for barrier in dict.fromkeys(lane.waits for lane in warp):
            mask, there = barrier[0] or 0, [lane for lane in warp if lane.waits == barrier]
            if there == [lane for lane in warp if mask >> lane.number % WARP & 1]:
                ready += _meet(there)
    if not ready:
        lines = Counter(f"{lane.frame.f_code.co_filename}:{lane.frame.f_lineno}" for lane in waiting)
        raise Deadlock(f"{where}: " + ", ".join(f"{count} lanes wait at {line}" for line, count in lines.items()))
    return ready


def _meet(lanes: list[_Lane]) -> list[_Lane]:
    """Tell each of these lanes what all of them offer, by number in the block."""
    heard = {lane.number: lane.offer for lane in lanes}
    for lane in lanes:
        lane.heard, lane.frame = heard, None
    return lanes


@cache
def _dtype(kind: Any) -> np.dtype:
    return np.dtype(numpy_type(kind) if isinstance(kind, types.Type) else kind)


@cache
def _poisoned(shape: Any, kind: Any) -> np.ndarray:
    """An array of which every byte is 0xFF."""
    array = np.empty(shape, _dtype(kind))
    array.reshape(-1).view(np.uint8).fill(0xFF)
    return array


def _whole_elements(store: np.ndarray, kind: Any) -> np.ndarray:
    itemsize = _dtype(kind).itemsize
    return store[: store.size // itemsize * itemsize].view(_dtype(kind))


_scheduler = _Scheduler()


@cache
def _replace_numbas_scheduler() -> None:
    """The one place that reaches into Numba: the words of a kernel, launches of cuda.jit, and casts like uint32(x)."""
    if not SIMULATED:
        raise UnsupportedError("the simulator needs NUMBA_ENABLE_CUDASIM=1, set before Numba is imported")
    if greenlet is None:
        raise UnsupportedError("the simulator runs lanes as greenlets: pip install 'numba_fftconv[sim]'")
    try:
        from numba.cuda.simulator import kernel, kernelapi

        stock = kernelapi.FakeCUDAModule((1, 1, 1), (1, 1, 1), 0)
        untouched = {name: getattr(stock, name) for name in (*STOCK_WORDS, *FENCES)}
        launch, context = kernel.FakeCUDAKernel.__call__, kernel._get_kernel_context
        kernel.BlockManager, kernel.swapped_cuda_module  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise UnsupportedError(f"this version of Numba's CUDA simulator is not known: {error}") from error

    class Block:
        """What Numba's simulator makes of each block of a launch of a cuda.jit function."""

        def __init__(self, function: Any, grid: Any, threads: Any, debug: bool) -> None:
            shared_bytes = context()._shared._dynshared_size
            self.launch = _Launch(function.__name__, function, Triple(*grid), Triple(*threads), shared_bytes, ())

        def run(self, block: Any, *arguments: Any) -> None:
            _scheduler.run_block(self.launch._replace(arguments=arguments), Triple(*block), _scheduler._fresh_draw())

    def call(self: Any, *arguments: Any) -> Any:
        return self.fn(*arguments) if self._device or context() else launch(self, *arguments)

    def cast(self: Any, *values: Any) -> Any:
        if len(values) != 1 or not isinstance(values[0], numbers):
            return signature(self, *values)
        scalar, (value,) = scalars[self.name], values
        try:
            return scalar(value)
        except OverflowError:  # NumPy refuses an integer that a GPU wraps round
            return getattr(np, f"uint{self.bitwidth}")(value % (1 << self.bitwidth)).view(scalar)

    words = {name: getattr(_scheduler, name) for name in (*BARRIERS, *COLLECTIVES, *PLACES)}
    signature, numbers = types.Number.__call__, (int, np.generic, float, complex)
    scalars = {kind.name: numpy_type(kind) for kind in types.number_domain}
    types.Number.__call__ = cast
    kernel.BlockManager, kernel.swapped_cuda_module = Block, lambda *_: contextlib.nullcontext()
    kernel.FakeCUDAKernel.__call__ = call
    for name, word in {**untouched, **words}.items():
        setattr(cuda, name, word)
