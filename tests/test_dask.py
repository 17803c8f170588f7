"""Images held as dask arrays: equal to the definition for any chunks and boundaries, lazy, and honest about errors."""

import math
import os
import pickle
import re
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import forward

import numba_fftconv
from numba_fftconv import (
    DeviceMismatchError,
    InvalidOptionError,
    InvalidShapeError,
    InvalidTypeError,
    UnsupportedError,
    plan_conv2d,
)
from numba_fftconv.cuda.arrays import DeviceArray

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
pytest.importorskip("dask.array.utils")
by_dask = pytest.importorskip("numba_fftconv.dask")
convolve, assert_eq = by_dask.convolve, da.utils.assert_eq

LIMIT = 400 * 10**6  # bytes that each worker may use; without any image, it uses some 200 MB
SECONDS = 120  # that anything with processes may take, before it is a failure and not a hanging suite
SYNCHRONOUS = {"scheduler": "synchronous"}
PADDINGS: dict[Any, dict[str, Any]] = {  # what np.pad calls a boundary
    0: {"mode": "constant"},
    "none": {"mode": "constant"},
    -2.5: {"mode": "constant", "constant_values": -2.5},
    "reflect": {"mode": "symmetric"},
    "periodic": {"mode": "wrap"},
    "nearest": {"mode": "edge"},
}


def conv2d_8(images: Any, kernel: Any, precision: str | None = None) -> Any:
    """conv2d by transforms of 8 samples alone, which compile fast and cut these blocks into several segments."""
    return plan_conv2d(images.shape, kernel.shape, dtype=images.dtype, fft_size=8).forward(images, kernel)


@pytest.fixture(autouse=True, scope="module")
def few_kernels() -> Iterator[None]:
    """A GPU and the workers that meet the large image have the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_dask, "conv2d", conv2d_8)
        yield


def random(*shape: int, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def definition(image: np.ndarray, kernel: np.ndarray, mode: str, boundary: Any) -> np.ndarray:
    """Every tap in float64, of planes that NumPy has padded: of an even side, the longer halo comes first."""
    lead = [(0, 0)] * (image.ndim - 2)
    halos = [(taps // 2, (taps - 1) // 2) for taps in kernel.shape] if mode == "same" else [(0, 0)] * 2
    padded = np.pad(image.astype("float64"), [*lead, *halos], **PADDINGS[boundary])
    planes = padded.reshape(-1, 1, *padded.shape[-2:])
    y = forward(planes, kernel[None, None, ::-1, ::-1], (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    return y.reshape(*image.shape[:-2], *y.shape[-2:])


# ---- the definition


class Problem(NamedTuple):
    chunks: tuple[tuple[int, ...], ...]
    kernel: tuple[int, int]
    mode: str
    boundary: Any


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Ragged chunks, some empty and some thinner than the halo; kernels up to the whole of a small plane."""
    sizes = st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple)
    planes = sizes.filter(lambda chunks: 1 <= sum(chunks) <= 20)
    lead = draw(st.lists(sizes.filter(lambda chunks: 1 <= sum(chunks) <= 3), max_size=2))
    chunks = draw(planes), draw(planes)
    kernel = tuple(min(draw(st.sampled_from((1, 2, 3, 6, 8))), sum(axis)) for axis in chunks)
    rest = (st.sampled_from(("same", "same", "valid")), st.sampled_from(list(PADDINGS)))
    return Problem((*lead, *chunks), kernel, *map(draw, rest))


@settings(max_examples=10)
@given(problems())
def test_any_chunks_make_what_the_definition_makes(problem: Problem) -> None:
    chunks, taps, mode, boundary = problem
    image, kernel = random(*map(sum, chunks)), random(*taps)
    before = image.copy(), kernel.copy()
    result = convolve(da.from_array(image, chunks=chunks), kernel, mode, boundary)
    want = definition(image, kernel, mode, boundary)
    assert (result.shape, result.dtype) == (want.shape, np.float64)
    largest = np.abs(image).max(initial=1) * np.abs(kernel).sum()
    # Shapes, dtypes and types of every chunk are compared with what the graph declares, too.
    assert_eq(result, want, rtol=0, atol=1e-14 * largest)
    assert np.array_equal(image, before[0]) and np.array_equal(kernel, before[1])


@pytest.mark.parametrize("boundary", PADDINGS)
@pytest.mark.parametrize("chunks", [(2, 4, 3), (1, 12, 10)])
def test_every_boundary_is_that_of_numpy(chunks: tuple[int, ...], boundary: Any) -> None:
    """Chunks between others, at one border and in a corner, and a chunk that lies at all borders."""
    image, kernel = random(2, 12, 10), random(6, 5)
    want = definition(image, kernel, "same", boundary)
    assert_eq(convolve(da.from_array(image, chunks=chunks), kernel, boundary=boundary), want, atol=1e-12)


@pytest.mark.parametrize("sides", [(3, 5), (4, 2), (1, 6), (7, 1)])
def test_the_centre_is_that_of_numpy(sides: tuple[int, int]) -> None:
    """numpy.convolve along both axes, of a kernel that is the product of a column and a row."""
    image, (column, row) = random(9, 11), map(random, sides)
    for mode in ("same", "valid"):
        down = np.apply_along_axis(np.convolve, 0, image, column, mode)
        want = np.apply_along_axis(np.convolve, 1, down, row, mode)
        assert_eq(convolve(da.from_array(image, chunks=4), np.outer(column, row), mode), want)


@pytest.mark.parametrize("sides", [(3, 5), (4, 6)])
def test_boundaries_are_those_of_scipy(sides: tuple[int, int]) -> None:
    signal, ndimage = pytest.importorskip("scipy.signal"), pytest.importorskip("scipy.ndimage")
    image, kernel = random(12, 10), random(*sides)
    array = da.from_array(image, chunks=(5, 4))
    words = (0, "fill", "constant"), ("periodic", "wrap", "wrap"), ("reflect", "symm", "reflect")
    for boundary, name, other in words:
        result = convolve(array, kernel, boundary=boundary)
        assert_eq(result, signal.convolve2d(image, kernel, "same", name))
        centre = [n % 2 - 1 for n in sides]  # even sides of ndimage have theirs one sample further on
        assert_eq(np.roll(result, centre, (0, 1))[:-1, :-1], ndimage.convolve(image, kernel, mode=other)[:-1, :-1])
    assert_eq(convolve(array, kernel, "valid"), signal.convolve2d(image, kernel, "valid"))


def test_halves_are_rounded_once() -> None:
    image, kernel = random(12, 9, dtype="float16"), random(3, 3, dtype="float16")
    want = convolve(da.from_array(image.astype("float32"), chunks=5), kernel.astype("float32"))
    assert_eq(convolve(da.from_array(image, chunks=5), kernel), want.astype("float16"), rtol=0, atol=0)


@pytest.mark.parametrize("chunks", [-1, 1])
def test_a_kernel_may_be_a_dask_array(chunks: int) -> None:
    image, kernel = da.from_array(random(9, 9), chunks=4), random(3, 4)
    assert_eq(convolve(image, da.from_array(kernel, chunks=chunks)), convolve(image, kernel))


def test_no_planes_make_no_planes() -> None:
    assert_eq(convolve(da.zeros((0, 8, 8), chunks=(1, 4, 4)), np.ones((3, 3))), np.zeros((0, 8, 8)))


# ---- the graph


@pytest.mark.parametrize("mode", ["same", "valid"])
@pytest.mark.parametrize("boundary", PADDINGS)
def test_nothing_is_computed_before_dask_is_told_to(mode: str, boundary: Any) -> None:
    """And then each chunk of the image once, whatever overlaps it."""
    made = []

    def chunk(block: np.ndarray) -> np.ndarray:
        made.append(block.shape)
        return block

    image = da.ones((12, 20), chunks=(4, 10), dtype="float32").map_blocks(chunk, meta=np.empty((0, 0), "float32"))
    kernel = da.ones((3, 4), dtype="float32").map_blocks(chunk, meta=np.empty((0, 0), "float32"))
    result = convolve(image, kernel, mode, boundary)
    assert not made
    assert type(result._meta) is np.ndarray and result.dtype == result._meta.dtype == "float32"
    result.compute(**SYNCHRONOUS)
    assert sorted(made) == [(3, 4)] + [(4, 10)] * 6


def test_chunks_stay_as_they_are_where_the_halo_fits() -> None:
    image = da.zeros((2, 64, 100), chunks=(1, (30, 34), 50), dtype="float32")
    assert convolve(image, np.ones((9, 9), "float32")).chunks == image.chunks
    assert convolve(image, np.ones((9, 9), "float32"), "valid").shape == (2, 56, 92)


def test_blocks_of_one_size_share_one_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those at the border too."""
    shapes = []

    def conv2d(images: np.ndarray, *others: Any, **options: Any) -> np.ndarray:
        shapes.append(images.shape)
        return conv2d_8(images, *others, **options)

    monkeypatch.setattr(by_dask, "conv2d", conv2d)
    convolve(da.zeros((2, 32, 48), chunks=(2, 16, 16), dtype="float32"), np.ones((5, 4), "f4")).compute(**SYNCHRONOUS)
    assert shapes == [(2, 1, 20, 19)] * 6


@pytest.mark.parametrize("boundary", [0, "reflect", "nearest"])
def test_few_chunks_are_alive_at_once(boundary: Any) -> None:
    """However many rows there are: a halo keeps no chunk in memory, and no border ties the last row to the first."""
    alive, most = 0, 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def chunk(block: np.ndarray) -> np.ndarray:
        nonlocal alive, most
        alive, made = alive + 1, block.copy()
        most = max(most, alive)
        weakref.finalize(made, gone)
        return made

    class Nowhere:
        def __setitem__(self, place: Any, block: np.ndarray) -> None: ...

    image = da.ones((24 * 16, 4 * 16), chunks=16, dtype="float32").map_blocks(chunk, meta=np.empty((0, 0), "float32"))
    result = convolve(image, np.ones((5, 5), "float32"), boundary=boundary)
    result.sum().compute(**SYNCHRONOUS)
    da.store(result, Nowhere(), lock=False, **SYNCHRONOUS)
    assert alive == 0 and 4 < most <= 16 < math.prod(image.numblocks)


def test_the_kernel_is_no_part_of_every_task() -> None:
    """A task that is sent to a worker names the kernel."""
    result = convolve(da.zeros((400, 400), chunks=100, dtype="float32"), np.ones((50, 50), "float32"))
    tasks = dask.optimize(result)[0].__dask_graph__().to_dict()
    assert sum(len(pickle.dumps(task)) > 10_000 for task in tasks.values()) <= 2  # the kernel, and it turned


def test_chunks_of_any_library_stay_in_it() -> None:
    torch = pytest.importorskip("torch")
    block, kernel = random(2, 3, 9, 8, dtype="float32"), random(4, 3, dtype="float32")
    want = by_dask._convolve_chunk(block, kernel, None)
    got = by_dask._convolve_chunk(torch.from_numpy(block), torch.from_numpy(kernel), None)
    assert type(got) is torch.Tensor and want.shape == (2, 3, 5, 6)
    np.testing.assert_array_equal(got.numpy(), want)


@pytest.mark.gpu
def test_chunks_of_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = pytest.importorskip("cupy")
    monkeypatch.setattr(by_dask, "conv2d", numba_fftconv.conv2d)
    image, kernel = random(3, 40, 50, dtype="float32"), random(6, 5, dtype="float32")
    for boundary in PADDINGS:
        result = convolve(da.from_array(image, chunks=(1, 16, 20)).map_blocks(cupy.asarray), cupy.asarray(kernel),
                          boundary=boundary)  # fmt: skip
        got = result.compute(**SYNCHRONOUS)
        assert type(result._meta) is type(got) is cupy.ndarray
        np.testing.assert_allclose(got.get(), definition(image, kernel, "same", boundary), atol=1e-4)


# ---- what is refused

IMAGE, KERNEL = da.zeros((8, 9), chunks=4, dtype="float32"), np.ones((3, 3), "float32")
UNKNOWN = da.ones(8, chunks=4, dtype="float32")
UNKNOWN = UNKNOWN[UNKNOWN > 0]
REFUSED: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "NumPy image": ((np.ones((8, 8)), KERNEL), InvalidTypeError, "dask.array.from_array"),
    "list of taps": ((IMAGE, [[1.0]]), InvalidTypeError, "kernel is a list"),
    "integers": ((IMAGE.astype("int16"), KERNEL), InvalidTypeError, "array.astype('float32')"),
    "integer kernel": ((IMAGE, KERNEL.astype(int)), InvalidTypeError, "kernel.astype('float32')"),
    "complex": ((IMAGE.astype("complex64"), KERNEL), InvalidTypeError, "array.real and array.imag"),
    "two dtypes": ((IMAGE, KERNEL.astype("float64")), InvalidTypeError, "kernel.astype('float32')"),
    "masked chunks": ((da.ma.masked_less(IMAGE, 0), KERNEL), InvalidTypeError, "MaskedArray"),
    "unknown chunks": ((UNKNOWN[:, None] * IMAGE[:1], KERNEL), InvalidShapeError, "array.compute_chunk_sizes()"),
    "unknown kernel": ((IMAGE, UNKNOWN[:, None]), InvalidShapeError, "kernel.compute_chunk_sizes()"),
    "one axis": ((IMAGE[0], KERNEL), InvalidShapeError, "[..., H, W]"),
    "kernel with channels": ((IMAGE, KERNEL[None]), InvalidShapeError, "[R, S]"),
    "kernel of nothing": ((IMAGE, KERNEL[:0]), InvalidShapeError, "[R, S]"),
    "kernel larger than the image": ((IMAGE, np.ones((9, 3), "f4")), InvalidShapeError, "9 x 3"),
    "image of nothing": ((IMAGE[:0], KERNEL), InvalidShapeError, "0 x 9"),
    "kernel of 257": ((da.zeros((300, 300), dtype="f4"), np.ones((257, 1), "f4")), UnsupportedError, "256"),
    "mode": ((IMAGE, KERNEL, "full"), InvalidOptionError, "'same' or 'valid'"),
    "boundary": ((IMAGE, KERNEL, "same", "wrap"), InvalidOptionError, "'periodic'"),
    "boundary None": ((IMAGE, KERNEL, "same", None), InvalidOptionError, "a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    """Before anything is computed."""
    arguments, error, words = REFUSED[case]
    with pytest.raises(error, match=re.escape(words)):
        convolve(*arguments)


def test_precision_is_read_at_once() -> None:
    with pytest.raises(InvalidOptionError, match="tf32x3"):
        convolve(IMAGE, KERNEL, precision="fp64")


def test_chunks_on_a_gpu_are_checked_by_what_dask_knows_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed to see that float64 has no kernels there, or that the kernel lies elsewhere."""
    there = {"a chunk of array", "a chunk of kernel"}
    view = by_dask.view
    monkeypatch.setattr(by_dask, "view", lambda a, name: a.view(DeviceArray) if name in there else view(a, name))
    with pytest.raises(UnsupportedError, match="float64"):
        convolve(IMAGE.astype("float64"), KERNEL.astype("float64"))
    convolve(IMAGE, KERNEL)
    there.remove("a chunk of kernel")
    with pytest.raises(DeviceMismatchError, match="kernel is on cpu"):
        convolve(IMAGE, KERNEL)


def test_dask_is_asked_for_where_it_is_missing() -> None:
    code = "import sys; sys.modules['dask'] = sys.modules['dask.array'] = None; import numba_fftconv.dask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 1
    assert "ImportError: numba_fftconv.dask needs dask" in done.stderr
    assert "pip install 'numba_fftconv[dask]'" in done.stderr


# ---- errors of chunks, and of workers


def failing(block: np.ndarray) -> np.ndarray:
    raise OSError("the disk of this chunk is gone")


def dying(block: np.ndarray) -> np.ndarray:
    os._exit(1)


def lying(block: np.ndarray) -> np.ndarray:
    """Not of the dtype that the graph declares."""
    return block.astype("int16")


def mapped(function: Callable[[np.ndarray], np.ndarray]) -> Any:
    return convolve(IMAGE.map_blocks(function, meta=IMAGE._meta), KERNEL)


def test_what_a_chunk_raises_reaches_the_caller() -> None:
    with pytest.raises(OSError, match="the disk of this chunk is gone"):
        mapped(failing).compute(**SYNCHRONOUS)
    with pytest.raises(InvalidTypeError, match="int16"):
        mapped(lying).compute(**SYNCHRONOUS)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two worker processes of one thread each; dask gives a task up when the second worker has died of it."""
    distributed = pytest.importorskip("distributed")
    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.nanny.pre-spawn-environ.NUMBA_NUM_THREADS": "1",
    }
    with dask.config.set(settings), distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, memory_limit=LIMIT, dashboard_address=None,
        local_directory=str(tmp_path_factory.mktemp("workers")), silence_logs="ERROR",
    ) as cluster, distributed.Client(cluster, timeout=SECONDS, set_as_default=False) as connected:  # fmt: skip
        yield connected


@pytest.mark.slow
def test_an_image_larger_than_the_memory_of_all_workers(client: Any) -> None:
    """Of every chunk of the result its corners and its centre, against the definition; and no worker is restarted."""
    side, step, count = 15, 1024, 14
    taps = random(side, side, dtype="float32")
    places = np.array([0, 1, step // 2, step - 2, step - 1])

    def pixels(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        mixed = rows.astype("uint32")[:, None] * np.uint32(2654435761) ^ columns.astype("uint32") * np.uint32(40503)
        return (mixed >> np.uint32(13) & np.uint32(255)).astype("float32")

    def made(block_info: Any = None) -> np.ndarray:
        return pixels(*(np.arange(*span) for span in block_info[None]["array-location"]))

    image = da.map_blocks(made, chunks=((step,) * count,) * 2, meta=np.empty((0, 0), "float32"))
    assert image.nbytes > 2 * LIMIT
    pids = client.run(os.getpid)
    sampled = convolve(image, taps).map_blocks(
        lambda block: block[np.ix_(places, places)], chunks=((len(places),) * count,) * 2, meta=image._meta
    )
    got = client.compute(sampled).result(timeout=SECONDS)

    lines = np.add.outer(np.arange(count) * step, places).ravel()
    want = np.zeros((lines.size, lines.size))
    for (r, s), tap in np.ndenumerate(taps.astype("float64")):
        rows, columns = lines + side // 2 - r, lines + side // 2 - s
        inside = [(axis >= 0) & (axis < count * step) for axis in (rows, columns)]
        want += tap * np.outer(*inside) * pixels(rows, columns)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * 255 * np.abs(taps).sum())
    assert client.run(os.getpid) == pids, "a worker was restarted"


def test_what_a_worker_raises_reaches_the_caller(client: Any) -> None:
    with pytest.raises(OSError, match="the disk of this chunk is gone"):
        client.compute(mapped(failing)).result(timeout=SECONDS)
    with pytest.raises(InvalidTypeError, match="int16"):
        client.compute(mapped(lying)).result(timeout=SECONDS)


def test_the_death_of_workers_reaches_the_caller(client: Any) -> None:
    """The last of these tests: its workers die."""
    from distributed import KilledWorker

    with pytest.raises(KilledWorker):
        client.compute(mapped(dying)).result(timeout=SECONDS)
