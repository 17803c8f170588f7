"""Every library of arrays at every door: the bits that NumPy's arrays give, in its own arrays, dtype and device.

Each library that is installed is a row of a table, each door another, and the matrix of both runs in every dtype that a
library has. Its arrays are read where they lie; what it cannot do is refused in words that name what was passed.
"""

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from numba_fftconv import (
    InvalidOptionError,
    InvalidTypeError,
    conv2d,
    conv2d_backward,
    conv2d_input_grad,
    conv2d_weight_grad,
    dlpack,
    inverse,
    multiply,
    plan_conv2d,
    transform,
)
from numba_fftconv.arrays import host, like
from numba_fftconv.dtypes import BFLOAT16, name_of, numpy_dtype, rounded

# ---- libraries -------------------------------------------------------------------------------------------------------


class Numpy:
    """NumPy itself; its bfloat16 is that of ml_dtypes."""

    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32", "float64")
    is_mutable = True

    def __init__(self) -> None:
        self.xp: Any = np

    def put(self, array: np.ndarray) -> Any:
        """An array of the library with the same samples, BFLOAT16 called by its name there."""
        if array.dtype == BFLOAT16:
            return array.view(pytest.importorskip("ml_dtypes").bfloat16)
        return array

    def named(self, dtype: str) -> Any:
        return pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)

    def pointer(self, array: Any) -> int:
        return int(array.ctypes.data)

    def context(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        """In which the library has arrays of a dtype."""
        return contextlib.nullcontext()


class Torch(Numpy):
    def __init__(self) -> None:
        self.xp = pytest.importorskip("torch")

    def put(self, array: np.ndarray) -> Any:
        if array.dtype == BFLOAT16:
            return self.xp.from_numpy(array.view(np.int16)).view(self.xp.bfloat16)
        return self.xp.from_numpy(array)

    def named(self, dtype: str) -> Any:
        return getattr(self.xp, dtype)

    def pointer(self, array: Any) -> int:
        return int(array.data_ptr())


class Jax(Numpy):
    is_mutable = False

    def __init__(self) -> None:
        self.jax = pytest.importorskip("jax")
        self.xp = pytest.importorskip("jax.numpy")

    def put(self, array: np.ndarray) -> Any:
        return self.xp.array(super().put(array))

    def named(self, dtype: str) -> Any:
        return self.xp.dtype(dtype)

    def pointer(self, array: Any) -> int:
        return int(array.unsafe_buffer_pointer())

    def context(self, dtype: str) -> contextlib.AbstractContextManager[Any]:
        wide: contextlib.AbstractContextManager[Any] = self.jax.enable_x64(dtype in ("float64", "complex128"))
        return wide


class Strict(Numpy):
    """The array API with nothing besides."""

    dtypes = ("float32", "float64")

    def __init__(self) -> None:
        self.xp = pytest.importorskip("array_api_strict")

    def put(self, array: np.ndarray) -> Any:
        return self.xp.from_dlpack(array)

    def named(self, dtype: str) -> Any:
        return getattr(self.xp, dtype)

    def pointer(self, array: Any) -> int:
        return int(np.from_dlpack(array).ctypes.data)


LIBRARIES: dict[str, type[Numpy]] = {"numpy": Numpy, "torch": Torch, "jax": Jax, "array_api_strict": Strict}
CASES = [(name, dtype) for name, library in LIBRARIES.items() for dtype in library.dtypes]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Numpy:
    return LIBRARIES[request.param]()


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[Numpy, str]]:
    """A library and a dtype that it has."""
    name, dtype = request.param
    made = LIBRARIES[name]()
    with made.context(dtype):
        yield made, dtype


# ---- doors -----------------------------------------------------------------------------------------------------------

X_SHAPE, W_SHAPE, Y_SHAPE = (2, 4, 9, 8), (6, 2, 3, 3), (2, 6, 5, 4)
OPTIONS: dict[str, Any] = {"stride": 2, "padding": 1, "groups": 2}
TILE = 12
Door = Callable[..., Any]


def drawn(dtype: str) -> dict[str, np.ndarray]:
    """Operands of a layer by the letters that doors name them with, and a spectrum by its own."""
    draw = np.random.default_rng(20).standard_normal
    shapes = {"x": X_SHAPE, "w": W_SHAPE, "dy": Y_SHAPE, "b": (6,)}
    given = {name: rounded(draw(shape), dtype) for name, shape in shapes.items()}
    return given | {"X": transform(given["x"], TILE), "W": transform(given["w"], TILE)}


def plan(dtype: str) -> Any:
    return plan_conv2d(X_SHAPE, W_SHAPE, dtype=dtype, **OPTIONS, device="cpu")


# By name: the operands, and the call; `dtype` is that of the layer.
DOORS: dict[str, tuple[str, Callable[..., Door]]] = {
    "conv2d": ("x w b", lambda dtype: lambda x, w, b, **out: conv2d(x, w, b, **OPTIONS, **out)),
    "conv2d_input_grad": (
        "w dy", lambda dtype: lambda w, dy, **out: conv2d_input_grad(X_SHAPE, w, dy, **OPTIONS, **out)
    ),
    "conv2d_weight_grad": (
        "x dy", lambda dtype: lambda x, dy, **out: conv2d_weight_grad(x, W_SHAPE, dy, **OPTIONS, **out)
    ),
    "conv2d_backward": ("dy x w", lambda dtype: lambda dy, x, w: conv2d_backward(dy, x, w, **OPTIONS)),
    "plan.forward": ("x w b", lambda dtype: plan(dtype).forward),
    "plan.input_grad": ("dy w", lambda dtype: plan(dtype).input_grad),
    "plan.weight_grad": ("x dy", lambda dtype: plan(dtype).weight_grad),
    "plan.backward": ("dy x w", lambda dtype: plan(dtype).backward),
    "plan.transform_weight": (
        "x w", lambda dtype: lambda x, w, **out: plan(dtype).forward(x, plan(dtype).transform_weight(w), **out)
    ),
    "transform": ("x", lambda dtype: lambda x, **out: transform(x, TILE, **out)),
    "multiply": ("X W", lambda dtype: lambda X, W, **out: multiply(X, W, groups=2, **out)),
    "inverse": ("X", lambda dtype: lambda X, **out: inverse(X, (9, 8), dtype=dtype, **out)),
}  # fmt: skip
WRITING = [name for name in DOORS if "backward" not in name]
each_door = pytest.mark.parametrize("door", DOORS)
each_writing_door = pytest.mark.parametrize("door", WRITING)


def operands(door: str, dtype: str) -> list[np.ndarray]:
    given = drawn(dtype)
    return [given[letter] for letter in DOORS[door][0].split()]


def called(door: str, dtype: str, *arrays: Any, **out: Any) -> list[Any]:
    """The results of a door."""
    results = DOORS[door][1](dtype)(*arrays, **out)
    return list(results) if isinstance(results, tuple) else [results]


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


# ---- in and out ------------------------------------------------------------------------------------------------------


@each_door
def test_results_have_the_bits_of_numpys_and_the_type_of_the_caller(case: tuple[Numpy, str], door: str) -> None:
    """And his dtype and device; operands stay as they were."""
    library, dtype = case
    given = operands(door, dtype)
    before, arrays = [bits(a) for a in given], [library.put(a) for a in given]
    results = called(door, dtype, *arrays)
    for got, want in zip(results, called(door, dtype, *given), strict=True):
        assert type(got) is type(arrays[0])
        seen = host(got, "result")
        assert name_of(seen.dtype) == name_of(host(want, "result").dtype)
        assert got.dtype == library.named(name_of(seen.dtype)), f"called {got.dtype} there"
        assert getattr(got, "device", None) == getattr(arrays[0], "device", None)
        assert seen.shape == want.shape and bits(seen) == bits(want)
    assert [bits(a) for a in given] == before == [bits(host(a, "operand")) for a in arrays]


def test_operands_are_read_where_they_lie(case: tuple[Numpy, str]) -> None:
    library, dtype = case
    array = library.put(drawn(dtype)["x"])
    seen = host(array, "input")
    assert seen.ctypes.data == library.pointer(array)
    assert seen.flags.writeable == library.is_mutable
    assert seen.dtype == numpy_dtype(dtype) and seen.shape == X_SHAPE


def test_results_are_handed_over_without_a_copy(case: tuple[Numpy, str]) -> None:
    """From where a library takes them: JAX copies what does not begin at a multiple of 64 bytes."""
    library, dtype = case
    samples = np.zeros(64 + 256, np.uint8)
    result = samples[-samples.ctypes.data % 64 :][:256].view(numpy_dtype(dtype))
    made = like(result, library.put(drawn(dtype)["x"]))
    assert library.pointer(made) == result.ctypes.data
    result.view(np.uint8)[:] = 7
    assert bits(host(made, "made")) == 256 * b"\7"


def test_what_a_library_wrote_in_a_capsule_is_there_when_it_frees_it() -> None:
    """Only while NumPy reads it is the memory of a GPU called the host's, and bfloat16 integers."""
    samples = rounded(np.arange(4.0), "bfloat16")
    capsule = dlpack.Shown(samples, (dlpack.CUDA, 3)).__dlpack__()
    tensor = dlpack._tensor(capsule)
    seen = dlpack.read(SimpleNamespace(__dlpack__=lambda **options: capsule))
    assert seen.dtype == BFLOAT16 and seen.ctypes.data == samples.ctypes.data
    assert (tensor.device_type, tensor.device_id, tensor.code, tensor.bits) == (dlpack.CUDA, 3, dlpack.BFLOAT, 16)
    with pytest.raises(BufferError, match="not copied"):
        dlpack.Shown(samples).__dlpack__(copy=True)


@each_writing_door
def test_out_is_written_where_a_library_has_writable_arrays(case: tuple[Numpy, str], door: str) -> None:
    library, dtype = case
    given = operands(door, dtype)
    (want,) = called(door, dtype, *given)
    memory = np.full_like(host(want, "result").view(np.uint8), 0xFF).view(host(want, "result").dtype)
    out, arrays = library.put(memory), [library.put(a) for a in given]
    if library.is_mutable:
        assert called(door, dtype, *arrays, out=out)[0] is out
        assert bits(memory) == bits(want)
    else:
        with pytest.raises(InvalidOptionError, match=rf"out is a read-only \S*{type(out).__qualname__}"):
            called(door, dtype, *arrays, out=out)
        assert set(bits(host(out, "out"))) == {0xFF}
        numpys = library.put(memory), np.array(memory)  # what JAX cannot write into, NumPy can
        assert called(door, dtype, *arrays, out=numpys[1])[0] is numpys[1] and bits(numpys[1]) == bits(want)


def test_out_that_numpy_says_is_read_only() -> None:
    out = np.zeros(Y_SHAPE, np.float32)
    out.flags.writeable = False
    with pytest.raises(InvalidOptionError, match=r"out is a read-only numpy.ndarray"):
        called("conv2d", "float32", *operands("conv2d", "float32"), out=out)
    assert not out.any()


PAIRS = list(itertools.permutations(LIBRARIES, 2))


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_libraries_may_be_mixed(pair: tuple[str, str]) -> None:
    """The first array says what comes back, `out` may be of another library yet."""
    first, other = (LIBRARIES[name]() for name in pair)
    for door in DOORS:
        head, *tail = operands(door, "float32")
        want = called(door, "float32", head, *tail)
        got = called(door, "float32", first.put(head), *map(other.put, tail))
        for one, exact in zip(got, want, strict=True):
            assert type(one) is type(first.put(head)) and bits(host(one, "result")) == bits(exact), door
        if door in WRITING and other.is_mutable:
            memory = np.zeros_like(want[0])
            out = other.put(memory)
            assert called(door, "float32", first.put(head), *map(first.put, tail), out=out)[0] is out
            assert bits(memory) == bits(want[0]), door


# ---- strides, and no samples -----------------------------------------------------------------------------------------

VIEWS: dict[str, Callable[[Any], Any]] = {
    "every other": lambda a: a[..., ::2],
    "backward": lambda a: a[:, :, ::-1, ::-1],
    "transposed": lambda a: a.mT,
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_read_as_they_lie(case: tuple[Numpy, str], view: str) -> None:
    """Of libraries whose views share memory; torch has none backward, and JAX makes a copy of each."""
    library, dtype = case
    if (view, type(library)) == ("backward", Torch):
        pytest.skip("torch has no negative strides")
    given = drawn(dtype)
    wide = np.concatenate([given["x"], given["x"]], axis=3)
    x, w = library.put(wide), library.put(given["w"])
    seen = VIEWS[view](x)
    want = conv2d(np.ascontiguousarray(VIEWS[view](wide)), given["w"], **OPTIONS)
    got = conv2d(seen, w, **OPTIONS)
    assert type(got) is type(x) and bits(host(got, "y")) == bits(want)
    assert host(seen, "x").flags.c_contiguous != library.is_mutable


def test_an_empty_batch(case: tuple[Numpy, str]) -> None:
    library, dtype = case
    given = drawn(dtype)
    x, w, dy = library.put(given["x"][:0]), library.put(given["w"]), library.put(given["dy"][:0])
    y, (dx, dw, db) = conv2d(x, w, **OPTIONS), conv2d_backward(dy, x, w, **OPTIONS)
    for got, shape in ((y, (0, *Y_SHAPE[1:])), (dx, (0, *X_SHAPE[1:])), (dw, W_SHAPE), (db, (6,))):
        assert type(got) is type(x) and got.dtype == x.dtype and tuple(got.shape) == shape
        assert not any(bits(host(got, "result")))


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int32", "int16", "uint8", "bool", "complex64"])
def test_other_dtypes_are_named(library: Numpy, dtype: str) -> None:
    x, w = library.put(np.ones(X_SHAPE, dtype)), library.put(np.ones(W_SHAPE, np.float32))
    for call in (lambda: conv2d(x, w, **OPTIONS), lambda: plan("float32").forward(x, w), lambda: transform(x, TILE)):
        with pytest.raises(InvalidTypeError, match=rf"(input|planes) has dtype {dtype}: it must be float"):
            call()


def test_a_dtype_that_numpy_has_not_is_named() -> None:
    jax = pytest.importorskip("jax")
    with pytest.raises(InvalidTypeError, match=r"input is a \S*ArrayImpl of dtype float8_e4m3fn .* pass dense float16"):
        conv2d(jax.numpy.ones(X_SHAPE, "float8_e4m3fn"), np.ones(W_SHAPE, np.float32), **OPTIONS)


class OnlyArray:
    """What pandas and xarray show of a frame: NumPy makes an array of it, by a copy or not."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.array


NO_ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "list": np.ndarray.tolist,
    "masked": lambda a: np.ma.masked_array(a, a.real > 0),
    "__array__": OnlyArray,
    "scalar": lambda a: 1.0,
    "shape": lambda a: pytest.importorskip("jax").ShapeDtypeStruct(a.shape, a.dtype),
    "meta": lambda a: pytest.importorskip("torch").empty(a.shape, device="meta"),
    "gradient": lambda a: pytest.importorskip("torch").from_numpy(a).requires_grad_(),
}


@pytest.mark.parametrize("kind", NO_ARRAYS)
@each_door
def test_what_is_no_array_is_named(door: str, kind: str) -> None:
    given = operands(door, "float32")
    for place, array in enumerate(given):
        wrong = NO_ARRAYS[kind](array)
        with pytest.raises(InvalidTypeError, match=rf"\w+ is a \S*{type(wrong).__qualname__}"):
            called(door, "float32", *given[:place], wrong, *given[place + 1 :])


# ---- JAX -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def jax() -> Any:
    return pytest.importorskip("jax")


def test_traced_arrays_are_sent_to_a_callback(jax: Any) -> None:
    """Which then works: under jit the call runs on arrays."""
    given = drawn("float32")
    x, w = jax.numpy.array(given["x"]), jax.numpy.array(given["w"])

    def layer(x: Any) -> Any:
        return conv2d(x, w, **OPTIONS)

    traced = [
        jax.jit(layer),
        jax.grad(lambda x: layer(x).sum()),
        lambda x: jax.vmap(layer)(x[None]),
        lambda x: jax.jvp(layer, (x,), (x,)),
    ]
    for call in traced:
        with pytest.raises(InvalidTypeError, match=r"input is a .*Tracer.*jax\.pure_callback"):
            call(x)
    result = jax.ShapeDtypeStruct(Y_SHAPE, x.dtype)

    def on_arrays(*arrays: Any) -> np.ndarray:
        return conv2d(*map(np.asarray, arrays), **OPTIONS)

    called_back = jax.jit(lambda x, w: jax.pure_callback(on_arrays, result, x, w))
    assert bits(np.asarray(called_back(x, w))) == bits(conv2d(given["x"], given["w"], **OPTIONS))


def test_an_array_that_jax_has_deleted(jax: Any) -> None:
    x = jax.numpy.ones(X_SHAPE)
    x.delete()
    with pytest.raises(InvalidTypeError, match=r"input is a \S*ArrayImpl that cannot say where it lies"):
        conv2d(x, np.ones(W_SHAPE, np.float32), **OPTIONS)


DEVICES = """
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 2)
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numba_fftconv import InvalidTypeError, conv2d
first, second = jax.devices()
given = np.random.default_rng(0).standard_normal((2, 2, 8, 8)).astype("float32"), np.ones((3, 2, 3, 3), "float32")
x, w = (jax.device_put(a, second) for a in given)
y = conv2d(x, w)
assert y.devices() == {second} and np.array_equal(y, conv2d(*given))
mesh = Mesh(jax.devices(), "i")
for parts in (PartitionSpec("i"), PartitionSpec()):
    try:
        conv2d(jax.device_put(given[0], NamedSharding(mesh, parts)), w)
    except InvalidTypeError as error:
        assert "input is a" in str(error) and "one device" in str(error), error
    else:
        raise AssertionError("an array on two devices")
"""


def test_several_devices_of_jax(jax: Any) -> None:
    """A result goes where the first array is; one that is spread over devices is refused, repeated or cut."""
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_bfloat16_of_a_spectrum(library: Numpy) -> None:
    """NumPy's spectra are of no library that has it: what is asked for comes as ml_dtypes calls it."""
    spectrum = drawn("float32")["X"]
    if isinstance(library, Strict):
        with pytest.raises(InvalidTypeError, match=r"array_api_strict\S* takes no bfloat16.*out"):
            inverse(library.put(spectrum), (9, 8), dtype="bfloat16")
        return
    got = inverse(library.put(spectrum), (9, 8), dtype="bfloat16")
    want = rounded(inverse(spectrum, (9, 8)), "bfloat16")
    assert bits(host(got, "planes")) == bits(want) and tuple(got.shape) == want.shape
