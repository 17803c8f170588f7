"""Wrong calls with arrays on a GPU: each raises its own class, says what was passed, and has launched nothing.

What is wrong wherever arrays lie has its table in test_bad_input.py; here is what a GPU adds to it.
"""

import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_driver import DeviceArray, fixture_of_fake_driver  # noqa: F401
from fake_libraries import Gpu, Tensor, fixture_of_gpu, install_torch  # noqa: F401
from machine_code import compiles

import numba_fftconv
from numba_fftconv import (
    DeviceMismatchError,
    FFTConvError,
    InvalidOptionError,
    InvalidShapeError,
    InvalidTypeError,
    PlanMismatchError,
    UnsupportedError,
    WorkspaceError,
    conv2d,
    conv2d_backward,
    conv2d_input_grad,
    conv2d_weight_grad,
    plan_conv2d,
)
from numba_fftconv.cuda import driver, toolchain
from numba_fftconv.errors import CudaError

pytestmark = compiles

SHAPES = {"input": (2, 4, 6, 5), "weight": (8, 1, 3, 3), "grad_output": (2, 8, 4, 3), "bias": (8,)}
DOORS = {
    "forward": conv2d,
    "input_grad": conv2d_input_grad,
    "weight_grad": conv2d_weight_grad,
    "backward": conv2d_backward,
}
READ = {
    "forward": ("input", "weight", "bias"),
    "input_grad": ("weight", "grad_output"),
    "weight_grad": ("input", "grad_output"),
    "backward": ("grad_output", "input", "weight"),
}
RESULT = {"forward": "grad_output", "input_grad": "input", "weight_grad": "weight"}
BYTES = np.zeros(10**5, np.uint8)  # more than a workspace takes
Make = Callable[[Gpu], Any]
MakeLike = Callable[[Gpu, np.ndarray], Any]  # of samples that would be right


def samples(name: str) -> np.ndarray:
    return np.random.default_rng(0).uniform(-9, 9, SHAPES[name]).astype(np.float32)


def planned(**changed: Any) -> Any:
    given = {"input_shape": SHAPES["input"], "weight_shape": SHAPES["weight"], "groups": 4, "fft_size": 4}
    return plan_conv2d(**given | {"device": "cuda"} | changed)


def arguments(gpu: Gpu, door: str) -> dict[str, Any]:
    """Those of a right call."""
    made: dict[str, Any] = {name: gpu.array(samples(name)) for name in READ[door]} | {"groups": 4, "plan": planned()}
    made["workspace"] = gpu.array(BYTES)
    sizes = {"input_grad": {"input_size": SHAPES["input"]}, "weight_grad": {"weight_size": SHAPES["weight"]}}
    out = {"out": gpu.array(np.full(SHAPES[RESULT[door]], np.nan, np.float32))} if door in RESULT else {}
    return made | sizes.get(door, {}) | out


@dataclass(frozen=True)
class Row:
    """One wrong call: what of a right one is changed, the class of its error, and words of its message."""

    title: str
    door: str
    error: type[FFTConvError]
    words: tuple[str, ...]
    changed: dict[str, Make] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.door}: {self.title} {', '.join(self.changed)}"


def rows(title: str, doors: Iterable[str], error: type[FFTConvError], *words: str, **changed: Make) -> list[Row]:
    """The same wrong arguments at several doors."""
    return [Row(title, door, error, words, changed) for door in doors]


def like(name: str, make: MakeLike) -> Make:
    return lambda gpu: make(gpu, samples(name))


def wrong_array(title: str, make: MakeLike, error: type[FFTConvError], *words: str) -> list[Row]:
    """The same wrong array in every place that is read."""
    places = [(door, name) for door, names in READ.items() for name in names]
    return [Row(title, door, error, (name, *words), {name: like(name, make)}) for door, name in places]


def wrong_out(title: str, make: MakeLike, error: type[FFTConvError], *words: str) -> list[Row]:
    """The same wrong out of every pass."""
    return [Row(title, door, error, ("out", *words), {"out": like(name, make)}) for door, name in RESULT.items()]


def wrong_workspace(title: str, make: Make, error: type[FFTConvError], *words: str) -> list[Row]:
    return rows(title, READ, error, "workspace", *words, workspace=make)


# ---- values that take some making


def shown(gpu: Gpu, values: np.ndarray, **changed: Any) -> Any:
    """An array with another CUDA array interface."""
    return SimpleNamespace(__cuda_array_interface__=gpu.array(values).__cuda_array_interface__ | changed)


def tensor(dtype: str = "float32", **flags: Any) -> MakeLike:
    def make(gpu: Gpu, values: np.ndarray) -> Tensor:
        made = Tensor(gpu.array(values).host, dtype=dtype)
        vars(made).update(flags)
        return made

    return make


def frozen(gpu: Gpu, values: np.ndarray) -> DeviceArray:
    made = gpu.array(values)
    made.host.flags.writeable = False
    return made


def repeated(gpu: Gpu, values: np.ndarray) -> DeviceArray:
    host = gpu.array(values).host
    return DeviceArray(np.lib.stride_tricks.as_strided(host, host.shape, (0, *host.strides[1:])))


def unaligned(gpu: Gpu, values: np.ndarray) -> DeviceArray:
    memory = gpu.array(np.zeros(values.nbytes + 1, np.uint8)).host
    return DeviceArray(memory[1:].view(np.float32).reshape(values.shape))


def in_common(first: str, at: int, second: str, shape: tuple[int, ...]) -> dict[str, Make]:
    """Two arguments of one memory: `second`, of that shape, begins so many samples into `first`."""
    memory: dict[Gpu, np.ndarray] = {}

    def part(gpu: Gpu, begin: int, shape: tuple[int, ...]) -> np.ndarray:
        if gpu not in memory:
            memory[gpu] = gpu.driver.empty(BYTES.size // 4)
        return memory[gpu][begin : begin + int(np.prod(shape))].reshape(shape)

    whole = (BYTES.size // 4,) if first == "workspace" else SHAPES[first]
    dtype = np.uint8 if first == "workspace" else np.float32
    return {
        first: lambda gpu: DeviceArray(part(gpu, 0, whole).view(dtype)),
        second: lambda gpu: DeviceArray(part(gpu, at, shape)),
    }


def spectrum(device: str) -> Make:
    def make(gpu: Gpu) -> Any:
        values, index = samples("weight"), device.partition(":")[2]
        return planned(device=device).transform_weight(gpu.array(values, int(index)) if index else values)

    return make


class Protocol:
    __cuda_stream__ = None


# ---- the table

SHAPE, OPTION, TYPE, MISMATCH = InvalidShapeError, InvalidOptionError, InvalidTypeError, PlanMismatchError
ELSEWHERE = DeviceMismatchError
TAKING_A_WEIGHT = ("forward", "input_grad", "backward")

TABLE: list[Row] = [
    # arrays that are read
    *wrong_array("five axes:", lambda gpu, a: gpu.array(a[(None,) * (5 - a.ndim)]), SHAPE, "it must be"),
    *wrong_array("float64", lambda gpu, a: gpu.array(a.astype("f8")), TYPE, "float64", "float32", "one dtype"),
    *wrong_array("int32", lambda gpu, a: gpu.array(a.astype("i4")), TYPE, "int32", "float32"),
    *wrong_array("float16", lambda gpu, a: gpu.array(a.astype("f2")), TYPE, "float16", "float32"),
    *wrong_array("NumPy", lambda gpu, a: a, ELSEWHERE, "is on cpu", "is on cuda:0", "one device"),
    *wrong_array("other GPU", lambda gpu, a: gpu.array(a, 1), ELSEWHERE, "is on cuda:1", "is on cuda:0"),
    *wrong_array("masked", lambda gpu, a: shown(gpu, a, mask=a), TYPE, "mask", "without it"),
    *wrong_array("null", lambda gpu, a: shown(gpu, a, data=(0, False)), TYPE, "pointer is 0", "memory"),
    *wrong_array("lost", lambda gpu, a: shown(gpu, a, data=(4096, False)), TYPE, "0x1000", "no memory of a CUDA"),
    *wrong_array("unaligned", unaligned, OPTION, "not aligned", "float32"),
    *wrong_array("sparse", tensor(layout="torch.sparse_coo"), TYPE, "layout torch.sparse_coo", "to_dense()"),
    *wrong_array("negated", tensor(negated=True), TYPE, "negated", "resolve_neg()"),
    *wrong_array("conjugated", tensor(conjugated=True), TYPE, "conjugated", "resolve_conj()"),
    *wrong_array("gradient", tensor(requires_grad=True), TYPE, "requires a gradient", "detach()"),
    *wrong_array("bfloat16", tensor("bfloat16"), TYPE, "bfloat16", "float32"),
    # out
    *wrong_out("other GPU", lambda gpu, a: gpu.array(a, 1), ELSEWHERE, "out is on cuda:1", "is on cuda:0"),
    *wrong_out("NumPy", lambda gpu, a: a, ELSEWHERE, "out is on cpu", "is on cuda:0"),
    *wrong_out("read-only", frozen, OPTION, "read-only", "writable"),
    *wrong_out("repeated", repeated, OPTION, "overlaps itself", "memory of its own"),
    *wrong_out("unaligned", unaligned, OPTION, "not aligned"),
    *wrong_out("float64", lambda gpu, a: gpu.array(a.astype("f8")), TYPE, "float64", "it must be float32"),
    *wrong_out("short", lambda gpu, a: gpu.array(a[:, :, :-1]), SHAPE, "it must be"),
    # workspace
    *wrong_workspace("short", lambda gpu: gpu.array(BYTES[:7]), WorkspaceError, "7 bytes", "workspace_size"),
    *wrong_workspace("NumPy", lambda gpu: BYTES, ELSEWHERE, "is on cpu", "is on cuda:0"),
    *wrong_workspace("other GPU", lambda gpu: gpu.array(BYTES, 1), ELSEWHERE, "is on cuda:1", "is on cuda:0"),
    *wrong_workspace("read-only", lambda gpu: frozen(gpu, BYTES), OPTION, "read-only or not"),
    *wrong_workspace("gaps in", lambda gpu: DeviceArray(gpu.array(BYTES).host[::2]), OPTION, "not contiguous"),
    # plans and spectra of elsewhere
    *rows("other GPU's", READ, MISMATCH, "'cuda:1'", "make a plan", plan=lambda gpu: planned(device="cuda:1")),
    *rows("CPU's", READ, MISMATCH, "'cpu'", "'cuda:0'", "make a plan", plan=lambda gpu: planned(device="cpu")),
    *rows("read-only", READ, MISMATCH, "'sm_90'", "make a plan", plan=lambda gpu: planned(device="sm_90")),
    *rows("CPU's", TAKING_A_WEIGHT, MISMATCH, "device 'cpu'", "'cuda:0'", weight=spectrum("cpu")),
    *rows("other GPU's", TAKING_A_WEIGHT, MISMATCH, "device 'cuda:1'", "'cuda:0'", weight=spectrum("cuda:1")),
    # streams
    *rows("other GPU's", READ, ELSEWHERE, "of device 1", "device 0", stream=lambda gpu: gpu.driver.stream(1)),
    *rows("unknown", READ, CudaError, "CUDA_ERROR_INVALID_HANDLE", stream=lambda gpu: 0x999),
]  # fmt: skip
for wrong in (True, -1, 2**64, 1.5, "7", object(), Protocol(), SimpleNamespace(handle="x"), SimpleNamespace(ptr=-5)):
    made: dict[str, Make] = {"stream": lambda gpu, wrong=wrong: wrong}
    TABLE += rows(f"{wrong!r:.16}", READ, OPTION, f"stream is {wrong!r}: it must be", "torch", **made)
for place, names in READ.items():
    on_host = {name: like(name, lambda gpu, a: a) for name in names}
    TABLE += rows("all in NumPy:", [place], MISMATCH, "'cuda:0'", "host memory", "make a plan", **on_host)
    for read in names:
        TABLE += rows("around", [place], OPTION, "workspace of shape", f"shares memory with {read}",
                      **in_common("workspace", 1000, read, SHAPES[read]))  # fmt: skip
        if place in RESULT:
            TABLE += rows("shared", [place], OPTION, "out of shape", f"shares memory with {read}",
                          **in_common(read, int(np.prod(SHAPES[read])) - 1, "out", SHAPES[RESULT[place]]))  # fmt: skip
    if place in RESULT:
        TABLE += rows("around", [place], OPTION, "workspace of shape", "shares memory with out",
                      **in_common("workspace", 1000, "out", SHAPES[RESULT[place]]))  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_a_call_is_right_before_it_is_changed(door: str, gpu: Gpu) -> None:
    given = arguments(gpu, door)
    DOORS[door](**given)
    assert gpu.launched and ("out" not in given or not np.isnan(given["out"].host).any())


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_wrong_call_says_so_and_launches_nothing(row: Row, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch(gpu, monkeypatch)
    given = arguments(gpu, row.door) | {name: make(gpu) for name, make in row.changed.items()}
    gpu.driver.log.clear()
    before = [region.array.tobytes() for region in gpu.driver.regions]
    with pytest.raises(row.error) as caught:
        DOORS[row.door](**given)
    assert type(caught.value) is row.error
    assert all(word in str(caught.value) for word in row.words), str(caught.value)
    assert gpu.driver.log == [] and gpu.driver.contexts == []
    assert before == [region.array.tobytes() for region in gpu.driver.regions[: len(before)]]


def test_all_arrays_of_float64(gpu: Gpu) -> None:
    x, w = (gpu.array(samples(name).astype(np.float64)) for name in ("input", "weight"))
    with pytest.raises(UnsupportedError, match=r"dtype is float64: on a GPU this version has .* and float32"):
        conv2d(x, w, groups=4)


WITHOUT_NUMBA_CUDA = """
import sys
sys.path += {path!r}
from numba import cuda
import numba_fftconv as n

assert getattr(cuda, "implementation", "") != "NVIDIA"

class OnGpu:
    __cuda_array_interface__ = {{"shape": (1, 1, 8, 8), "typestr": "<f4", "data": (4096, False), "version": 3}}

def device():
    import numba_fftconv.device

calls = lambda: n.conv2d(OnGpu(), OnGpu()), lambda: n.transform(OnGpu(), 8), device, lambda: n.plan_conv2d(
    (1, 1, 8, 8), (1, 1, 3, 3), device="cuda"
)
for call in 2 * calls:
    try:
        call()
    except n.UnsupportedError as error:
        print(error)
"""


def test_without_numba_cuda_each_door_says_what_to_install() -> None:
    """In a process without the file by which numba-cuda takes the place of Numba's own target."""
    script = WITHOUT_NUMBA_CUDA.format(path=[str(Path(numba_fftconv.__file__).parents[1]), *sys.path[1:]])
    done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True, timeout=120)
    lines = done.stdout.splitlines()
    assert len(lines) == 8, done.stdout
    assert all("numba-cuda is needed: pip install 'numba_fftconv[cu13]'" in line for line in lines), done.stdout


def test_no_driver_or_not_the_right_one(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found when the first array on a GPU is seen."""
    x, w = (gpu.array(samples(name)) for name in ("input", "weight"))

    def no_library(flags: int) -> None:
        raise RuntimeError("no libcuda")

    cases: list[tuple[Any, str, Any, str]] = [
        (gpu.driver, "cuInit", no_library, "no NVIDIA driver on this machine: install one"),
        (gpu.driver, "version", 12090, "CUDA 13 is needed: install 580 or newer"),
        (toolchain, "is_numba_cuda", lambda: False, r"numba-cuda is needed: pip install 'numba_fftconv\[cu13\]'"),
    ]
    for where, name, broken, words in cases:
        driver.initialised.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(where, name, broken, raising=False)
            with pytest.raises(UnsupportedError, match=rf"input is a .*DeviceArray in CUDA memory, but .*{words}"):
                conv2d(x, w, groups=4)
    driver.initialised.cache_clear()
    assert gpu.driver.log == []
