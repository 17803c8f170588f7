"""The scheduler itself: what a GPU does, it does; what a GPU hides, it shows."""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numba import complex64, cuda, float32, int32, types, uint32, uint64

from numba_fftconv.cuda.memory import Memory
from numba_fftconv.cuda.simulator import Deadlock, install, run
from numba_fftconv.cuda.toolchain import COMPLEXES, REALS, Kernel, device_function, namedtuple_type

THREADS = 64


def kernel(function: Callable[..., None], *signature: Any, threads: int = THREADS, shared_bytes: int = 0) -> Kernel:
    return Kernel(function.__name__, function, signature, threads, shared_bytes)


def block_sum(x: Any, y: Any) -> None:
    shared = cuda.shared.array(THREADS, float32)
    t = cuda.threadIdx.x
    shared[t] = x[cuda.blockIdx.x * THREADS + t]
    width = THREADS // 2
    while width:
        cuda.syncthreads()
        if t < width:
            shared[t] += shared[t + width]
        width //= 2
    if t == 0:
        y[cuda.blockIdx.x] = shared[0]


def test_a_block_sums(order: int | None) -> None:
    x, y = np.arange(3 * THREADS, dtype=np.float32), np.full(3, np.nan, np.float32)
    run(kernel(block_sum, REALS, REALS), 3, (x, y))
    assert y.tolist() == x.reshape(3, THREADS).sum(1).tolist()


def left_neighbour(x: Any, y: Any) -> None:
    shared = cuda.shared.array(THREADS, float32)
    t = cuda.threadIdx.x
    shared[t] = x[t]
    y[t] = shared[max(t - 1, 0)]


def test_a_missing_barrier_shows_only_in_a_drawn_order() -> None:
    x, y = np.arange(THREADS, dtype=np.float32), np.empty(THREADS, np.float32)
    run(kernel(left_neighbour, REALS, REALS), 1, (x, y))
    assert np.array_equal(y, np.maximum(x - 1, 0))
    install(permute=1)
    run(kernel(left_neighbour, REALS, REALS), 1, (x, y))
    assert np.isnan(y).any()


def test_a_drawn_order_is_the_same_at_every_launch() -> None:
    def first_come(y: Any) -> None:
        turn = cuda.shared.array(1, int32)
        cuda.atomic.add(turn, 0, 1)
        y[cuda.threadIdx.x] = turn[0]

    orders = []
    for seed in (1, 1, 2):
        install(permute=seed)
        y = np.empty(THREADS, np.float32)
        run(kernel(first_come, REALS), 1, (y,))
        orders.append(y.tolist())
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(THREADS))  # the shared counter began as -1


def test_lanes_at_two_barriers_are_a_deadlock(order: int | None) -> None:
    def parted(y: Any) -> None:
        if cuda.threadIdx.x < 32:
            cuda.syncthreads()
        else:
            cuda.syncthreads()

    def half_a_warp(y: Any) -> None:
        if cuda.threadIdx.x < 16:
            cuda.syncwarp()
        else:
            cuda.syncthreads()

    for function in parted, half_a_warp:
        with pytest.raises(Deadlock, match=rf"{function.__name__}, block \(0, 0, 0\): .* wait at .*test_scheduler"):
            run(kernel(function, REALS), 1, (np.empty(1, np.float32),))


def test_lanes_that_returned_are_not_waited_for(order: int | None) -> None:
    def some(y: Any) -> None:
        if cuda.threadIdx.x >= 40:
            return
        shared = cuda.shared.array(40, float32)
        shared[cuda.threadIdx.x] = 1
        cuda.syncthreads()
        y[cuda.threadIdx.x] = shared[39 - cuda.threadIdx.x]

    y = np.empty(40, np.float32)
    run(kernel(some, REALS), 1, (y,))
    assert y.tolist() == [1] * 40


def test_shuffles_and_votes(order: int | None) -> None:
    def shuffle(y: Any) -> None:
        t = cuda.threadIdx.x
        y[t] = cuda.shfl_xor_sync(0xFFFFFFFF, t, 5)
        y[THREADS + t] = cuda.shfl_up_sync(0xFFFFFFFF, t, 3)
        y[2 * THREADS + t] = cuda.shfl_down_sync(-1, t, 3)
        y[3 * THREADS + t] = cuda.shfl_sync(0xFFFFFFFF, t, 7)
        y[4 * THREADS + t] = cuda.ballot_sync(0xFFFFFFFF, cuda.laneid < 3) + cuda.any_sync(0xFFFFFFFF, t == 40)
        total = float32(t)
        for step in (16, 8, 4, 2, 1):
            total += cuda.shfl_xor_sync(0xFFFFFFFF, total, step)
        y[5 * THREADS + t] = total
        y[6 * THREADS + t] = cuda.syncthreads_count(t % 3 == 0)
        if t % 32 < 8:
            y[7 * THREADS + t] = cuda.shfl_xor_sync(0xFF, t, 1)

    y = np.full(8 * THREADS, np.nan, np.float32)
    run(kernel(shuffle, REALS), 1, (y,))
    t = np.arange(THREADS)
    lane, warp = t % 32, t // 32
    expected = [
        t ^ 5,
        np.where(lane < 3, t, t - 3),
        np.where(lane > 28, t, t + 3),
        warp * 32 + 7,
        7 + warp,
        np.bincount(warp, t)[warp],
        np.full(THREADS, 22),
        np.where(lane < 8, t ^ 1, np.nan),
    ]
    np.testing.assert_array_equal(y.reshape(8, THREADS), np.array(expected, np.float32))


def test_a_shuffle_from_a_lane_that_takes_no_part() -> None:
    def absent(y: Any) -> None:
        if cuda.threadIdx.x < 8:
            y[0] = cuda.shfl_xor_sync(0xFF, 1, 8)

    with pytest.raises(LookupError, match="from lane 8"):
        run(kernel(absent, REALS), 1, (np.empty(1, np.float32),))


def test_what_was_never_written_is_poison(order: int | None) -> None:
    def look(y: Any) -> None:
        static = cuda.shared.array((2, 3), float32, alignment=16)
        pair_a, pair_b = cuda.shared.array(1, int32), cuda.shared.array(1, int32)
        dynamic = cuda.shared.array(0, complex64)
        local = cuda.local.array(4, complex64, alignment=16)
        poisoned = np.isnan(static).all() and np.isnan(dynamic).all() and np.isnan(local).all() and pair_a[0] == -1
        cuda.syncthreads()
        static[1, 2] = dynamic[4] = local[0] = 1
        pair_a[0] = 7
        y[cuda.blockIdx.x * THREADS + cuda.threadIdx.x] = poisoned and len(dynamic) == 5 and pair_b[0] == -1

    y = np.zeros(2 * THREADS, np.float32)
    run(kernel(look, REALS, shared_bytes=44), 2, (y,))  # in the second block too
    assert y.all()


def test_dynamic_shared_memory_is_one_store_under_every_type(order: int | None) -> None:
    def halves(y: Any) -> None:
        z, x = cuda.shared.array(0, complex64), cuda.shared.array(0, float32)
        t = cuda.threadIdx.x
        z[t] = complex(t, -t)
        cuda.syncthreads()
        y[uint64(t)] = z[THREADS - 1 - t] + x[2 * t]

    y = np.empty(THREADS, np.complex64)
    run(kernel(halves, COMPLEXES, shared_bytes=8 * THREADS), 1, (y,))
    t = np.arange(THREADS)
    assert np.array_equal(y, (THREADS - 1 - t) * (1 - 1j) + t)


def test_errors_name_kernel_block_and_thread_and_leave_the_simulator_usable(order: int | None) -> None:
    def beyond(y: Any) -> None:
        cuda.syncthreads()
        y[cuda.blockIdx.y * 64 + cuda.threadIdx.x] = 0
        cuda.syncthreads()

    y = np.full(65, np.nan, np.float32)
    where = r"beyond, block \(0, 1, 0\), thread \(\d+, 0, 0\): index \d+ of a pointer to float32, .*\[0, 65\)"
    with pytest.raises(IndexError, match=where):
        run(kernel(beyond, REALS), (1, 2, 1), (y,))
    if order is None:
        assert not y.any()
    test_a_block_sums(order)


class Sizes(NamedTuple):
    width: int
    skew: int


class Factors(NamedTuple):
    scale: float


def test_named_tuples_and_numbers_arrive_as_their_types_hold_them() -> None:
    def scaled(y: Any, sizes: Any, factors: Any, shift: Any) -> None:
        t = cuda.threadIdx.x
        if t < sizes.width:
            y[t] = factors.scale * (t + sizes.skew) + shift

    y = np.zeros(THREADS, np.float32)
    signature = REALS, namedtuple_type(Sizes, types.int32), namedtuple_type(Factors, types.float32), types.uint32
    run(kernel(scaled, *signature), 1, (y, Sizes(10, -3), Factors(0.1), 2))
    t = np.arange(10, dtype=np.float32)
    assert np.array_equal(y[:10], np.float32(0.1) * (t - 3) + 2) and not y[10:].any()
    with pytest.raises(OverflowError):
        run(kernel(scaled, *signature), 1, (y, Sizes(1 << 31, 0), Factors(0.1), 2))
    with pytest.raises(TypeError, match="takes 4 arguments, got 1"):
        run(kernel(scaled, *signature), 1, (y,))
    with pytest.raises(TypeError, match="pointer to float32 was given complex64"):
        run(kernel(scaled, *signature), 1, (y.astype(np.complex64), Sizes(1, 0), Factors(1), 0))


def test_integers_wrap_round_without_warnings(recwarn: pytest.WarningsRecorder) -> None:
    def wrap(y: Any) -> None:
        y[0] = uint32(0) - uint32(1) == uint32(-1)
        y[1] = uint64(-2) + uint64(3) == 1
        y[2] = int32(2**31) == -(2**31)

    y = np.zeros(3, np.float32)
    run(kernel(wrap, REALS, threads=1), 1, (y,))
    assert y.all()
    assert not recwarn.list


def test_memory_walks_any_strides() -> None:
    store = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    array = store[::-1, 1:3, ::-2]
    memory = Memory(array)
    for (i, j, k), value in np.ndenumerate(array):
        element = i * -20 + j * 5 + k * -2
        assert memory[element] == memory[np.uint64(element % 2**64)] == memory.offset(element)[0] == value
    memory.offset(-40)[0] = -1
    assert array[2, 0, 0] == store[0, 1, 4] == -1
    low = store[0, 1, 0]
    assert memory[-44] == low == 5
    for outside in (-45, 6, np.uint64(2**63)):
        with pytest.raises(IndexError):
            memory[outside]
    with pytest.raises(TypeError):
        memory[np.float64(1)]
    with pytest.raises(ValueError, match="read-only"):
        Memory(np.broadcast_to(np.float32(1), 3))[0] = 2
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(IndexError):
            Memory(np.empty(shape, np.float32))[0]


def test_memory_of_a_workspace() -> None:
    workspace = np.zeros(100, np.uint8)
    z, x = Memory.of(workspace, np.complex64, 16, 4), Memory.of(workspace, np.float32, 48)
    z[3], x[12] = 1 + 2j, 3
    assert workspace[40:48].view(np.float32).tolist() == [1, 2] and workspace[96:].view(np.float32) == 3
    for memory, outside in ((z, 4), (z, -1), (x, 13)):
        with pytest.raises(IndexError):
            memory[outside]
    for wrong in ((4, 1), (96, 1), (104, None)):
        with pytest.raises(ValueError, match="workspace of 100 bytes"):
            Memory.of(workspace, np.complex64, *wrong)


@device_function
def doubled(x: Any) -> Any:
    return x + x + cuda.blockDim.x - THREADS


def test_launches_of_cuda_jit_use_the_scheduler_too(order: int | None) -> None:
    @cuda.jit
    def rotate(x: Any, y: Any) -> None:
        shared = cuda.shared.array(0, float32)
        i = cuda.grid(1)
        shared[cuda.threadIdx.x] = doubled(x[i])
        cuda.syncwarp()
        cuda.syncthreads()
        y[i] = shared[cuda.threadIdx.x - 1] + 0 * cuda.gridsize(1)

    x, y = np.arange(2 * THREADS, dtype=np.float32), np.zeros(2 * THREADS, np.float32)
    rotate[2, THREADS, 0, 4 * THREADS](x, y)
    assert np.array_equal(y.reshape(2, -1), 2 * np.roll(x.reshape(2, -1), 1, 1))


def test_blocks_of_three_axes() -> None:
    @cuda.jit
    def place(y: Any) -> None:
        x, j, k = cuda.grid(3)
        y[k, j, x] = cuda.laneid
        cuda.syncthreads()

    y = np.full((4, 6, 8), np.nan, np.float32)
    place[(2, 2, 2), (4, 3, 2)](y)
    assert np.array_equal(y[:2, :3, :4].ravel(), np.arange(24)) and not np.isnan(y).any()


def test_nothing_is_held_after_a_launch_and_any_thread_may_launch() -> None:
    x, y = np.arange(THREADS, dtype=np.float32), np.zeros(1, np.float32)
    alive = weakref.ref(x)
    thread = threading.Thread(target=run, args=(kernel(block_sum, REALS, REALS), 1, (x, y)))
    thread.start()
    thread.join()
    run(kernel(block_sum, REALS, REALS), 1, (x, y))
    assert y == x.sum()
    del x, thread
    gc.collect()
    assert alive() is None
