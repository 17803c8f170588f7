"""Every wrong call raises its own class, says what was passed and the rule, and has changed nothing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import reference
from gpu import has_gpu

import numba_fftconv
from numba_fftconv import (
    CudaError,
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
from numba_fftconv.cpu import call as cpu_call
from numba_fftconv.cpu import threads

BUILTINS = {
    InvalidShapeError: ValueError,
    InvalidOptionError: ValueError,
    InvalidTypeError: TypeError,
    UnsupportedError: NotImplementedError,
    WorkspaceError: MemoryError,
    DeviceMismatchError: ValueError,
    PlanMismatchError: ValueError,
    CudaError: RuntimeError,
}


@pytest.mark.parametrize("error", BUILTINS)
def test_each_error_is_ours_and_a_builtin(error: type[FFTConvError]) -> None:
    assert issubclass(error, FFTConvError) and issubclass(error, BUILTINS[error])
    assert getattr(numba_fftconv, error.__name__) is error


# ---- right calls, of which each row of the table changes something

SHAPES = {"input": (2, 4, 9, 8), "weight": (6, 2, 3, 3), "grad_output": (2, 6, 7, 6), "bias": (6,)}


class Memory:
    """The arrays of one call, all remembered as they were handed out."""

    large: np.ndarray

    def __init__(self) -> None:
        self.handed_out: list[tuple[np.ndarray, bytes]] = []
        self.shared = self.random(2000)

    def keep(self, array: np.ndarray) -> np.ndarray:
        self.handed_out.append((array, array.tobytes()))
        return array

    def random(self, *shape: int, dtype: str = "float32") -> np.ndarray:
        return self.keep(np.random.default_rng(0).uniform(-9, 9, shape).astype(dtype))

    def poisoned(self, *shape: int, dtype: str = "float32") -> np.ndarray:
        return self.keep(np.full(shape, np.nan, dtype))

    def named(self, *names: str) -> dict[str, np.ndarray]:
        return {name: self.random(*SHAPES[name]) for name in names}

    def is_unchanged(self) -> bool:
        return all(array.tobytes() == before for array, before in self.handed_out)


def forward(m: Memory, **changed: Any) -> Any:
    given = m.named("input", "weight", "bias") | {"groups": 2, "out": m.poisoned(*SHAPES["grad_output"])}
    return conv2d(**given | changed)


def input_grad(m: Memory, **changed: Any) -> Any:
    given = m.named("weight", "grad_output") | {"groups": 2, "out": m.poisoned(*SHAPES["input"])}
    return conv2d_input_grad(**{"input_size": SHAPES["input"]} | given | changed)


def weight_grad(m: Memory, **changed: Any) -> Any:
    given = m.named("input", "grad_output") | {"groups": 2, "out": m.poisoned(*SHAPES["weight"])}
    return conv2d_weight_grad(**{"weight_size": SHAPES["weight"]} | given | changed)


def backward(m: Memory, **changed: Any) -> Any:
    return conv2d_backward(**m.named("grad_output", "input", "weight") | {"groups": 2} | changed)


def plan(m: Memory, **changed: Any) -> Any:
    given = {
        "input_shape": SHAPES["input"],
        "weight_shape": SHAPES["weight"],
        "groups": 2,
        "fft_size": 16,
        "device": "cpu",
    }
    return plan_conv2d(**given | changed)


def method(name: str, *names: str) -> Callable[..., Any]:
    """The door that a method of a plan is, called with the arrays of these names in this order."""

    def door(m: Memory, **changed: Any) -> Any:
        return getattr(plan(m), name)(*(m.named(*names) | changed).values())

    door.__name__ = f"plan.{name}"
    return door


def keeping(name: str) -> Callable[..., Any]:
    """transform_input or transform_weight, with an array to lay the spectrum in."""

    def door(m: Memory, **changed: Any) -> Any:
        return getattr(plan(m), name)(*m.named(*METHODS[name]).values(), **changed)

    door.__name__ = f"plan.{name} into out"
    return door


METHODS = {
    "forward": ("input", "weight"),
    "input_grad": ("grad_output", "weight"),
    "weight_grad": ("input", "grad_output"),
    "backward": ("grad_output", "input", "weight"),
    "transform_weight": ("weight",),
    "transform_input": ("input",),
}
PASSES = {forward: "grad_output", input_grad: "input", weight_grad: "weight"}
RUNNING = (*PASSES, backward)
DOORS = (*RUNNING, plan)
READ = {
    forward: ("input", "weight", "bias"),
    input_grad: ("weight", "grad_output"),
    weight_grad: ("input", "grad_output"),
    backward: ("grad_output", "input", "weight"),
}
PLACES = [(door, name) for door, names in READ.items() for name in names]


@dataclass(frozen=True)
class Made:
    """A value that is made from the memory of the call; `title` names it in the test's name."""

    title: str
    make: Callable[[Memory], Any]

    def __repr__(self) -> str:
        return self.title


def array(*shape: int, dtype: str = "float32") -> Made:
    return Made(f"{dtype} array {shape}", lambda m: m.random(*shape, dtype=dtype))


@dataclass(frozen=True)
class Row:
    """One wrong call: a right one with some arguments changed, the class of its error, and words of its message."""

    door: Callable[..., Any]
    error: type[FFTConvError]
    words: tuple[str, ...]
    changed: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.door.__name__}({', '.join(f'{name}={value!r}' for name, value in self.changed.items())})"

    def call(self, m: Memory) -> Any:
        return self.door(m, **{name: v.make(m) if isinstance(v, Made) else v for name, v in self.changed.items()})


def rows(doors: Iterable[Callable[..., Any]], error: type[FFTConvError], *words: str, **changed: Any) -> list[Row]:
    """The same wrong arguments at several doors."""
    return [Row(door, error, words, changed) for door in doors]


def wrong_array(
    title: str, make: Callable[[np.ndarray], Any], *words: str, error: type[FFTConvError] = InvalidTypeError
) -> list[Row]:
    """The same wrong array in every place that takes one."""
    return [
        Row(door, error, (name, *words), {name: Made(title, lambda m, name=name: make(m.random(*SHAPES[name])))})
        for door, name in PLACES
    ]


def wrong_out(
    title: str, make: Callable[[Memory, tuple[int, ...]], Any], error: type[FFTConvError], *words: str
) -> list[Row]:
    """The same wrong out of every pass."""
    return [
        Row(door, error, ("out", *words), {"out": Made(title, lambda m, name=name: make(m, SHAPES[name]))})
        for door, name in PASSES.items()
    ]


# ---- wrong values that take some making


class OnDevice:
    """What an array on another device shows of itself."""

    def __init__(self, device: int) -> None:
        self.device = device

    def __dlpack__(self, **options: Any) -> Any:
        raise AssertionError("the samples of another device are not asked for")

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


class OnCuda:
    """What an array of Numba's CUDA target shows of itself: samples on a GPU, where this machine has none."""

    def __init__(self, a: np.ndarray) -> None:
        memory = 0 if GPU else 0x7F0000000000, False
        self.__cuda_array_interface__ = {"shape": a.shape, "typestr": a.dtype.str, "data": memory, "version": 3}


def read_only(m: Memory, shape: tuple[int, ...]) -> np.ndarray:
    made = m.poisoned(*shape)
    made.flags.writeable = False
    return made


def repeated(m: Memory, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(m.poisoned(*shape), shape, (0, 4, 40, 400))


def sliding(m: Memory, shape: tuple[int, ...]) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(m.poisoned(sum(shape)), shape, (4, 4, 4, 4))


def unaligned(m: Memory, shape: tuple[int, ...]) -> np.ndarray:
    memory = m.keep(np.zeros(4 * int(np.prod(shape)) + 1, np.uint8))
    return memory[1:].view(np.float32).reshape(shape)


def overlapping(name: str, other: str) -> dict[str, Made]:
    """Two arguments of one memory: the last sample of the first is the first sample of the other."""

    def before(m: Memory) -> np.ndarray:
        return m.shared[1000 - int(np.prod(SHAPES[name])) : 1000].reshape(SHAPES[name])

    def after(m: Memory) -> np.ndarray:
        return m.shared[999 : 999 + int(np.prod(SHAPES[other]))].reshape(SHAPES[other])

    return {"out": Made(f"{name} that ends in {other}", before), other: Made(f"{other} after out", after)}


def torch() -> Any:
    return pytest.importorskip("torch")


def planned(**options: Any) -> Made:
    return Made(f"plan of {options}", lambda m: plan(m, **options))


BATCH_OF_3, NARROW = planned(input_shape=(3, 4, 9, 8)), planned(weight_shape=(6, 2, 3, 2))
SEVEN = Made("array of 7 bytes", lambda m: m.poisoned(2).view(np.uint8)[:7])
OBJECTS = Made("array of objects", lambda m: np.full(9**6, None))


def working(nbytes: int, view: Callable[[np.ndarray], np.ndarray]) -> Made:
    return Made(f"workspace of {nbytes} bytes", lambda m: view(m.keep(np.zeros(nbytes, "u1"))))


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def holding(name: str, what: str) -> dict[str, Made]:
    """A workspace of good size, in whose middle an argument of the shape of `what` lies."""

    def workspace(m: Memory) -> np.ndarray:
        if not hasattr(m, "large"):
            m.large = m.random(10**6)
        return m.large

    def argument(m: Memory) -> np.ndarray:
        size = int(np.prod(SHAPES[what]))
        return workspace(m)[5000 : 5000 + size].reshape(SHAPES[what])

    return {"workspace": Made(f"workspace around {name}", workspace), name: Made(f"{name} in it", argument)}


def spectral(**options: Any) -> Made:
    def make(m: Memory) -> Any:
        made = plan(m, **options)
        return made.transform_weight(m.random(*made.geometry.weight_shape, dtype=made.dtype))

    return Made(f"SpectralWeight of {options}", make)


def spectral_input(**options: Any) -> Made:
    def make(m: Memory) -> Any:
        made = plan(m, **options)
        return made.transform_input(m.random(*made.geometry.input_shape, dtype=made.dtype))

    return Made(f"SpectralInput of {options}", make)


# ---- the table

GPU = has_gpu()
ON_GPU = InvalidTypeError if GPU else UnsupportedError
SHAPE, OPTION, TYPE, MISMATCH = InvalidShapeError, InvalidOptionError, InvalidTypeError, PlanMismatchError
IMAGES, KERNEL, PAIR = "(N, C, H, W) or (C, H, W)", "(K, C/groups, R, S)", "an int or a pair (rows, columns)"

TABLE: list[Row] = [
    # rank
    *rows([forward, weight_grad, backward], SHAPE, "(9, 8)", IMAGES, input=array(9, 8)),
    *rows([forward, weight_grad, backward], SHAPE, "(1, 2, 4, 9, 8)", IMAGES, input=array(1, 2, 4, 9, 8)),
    *rows([forward, input_grad, backward], SHAPE, "(2, 3, 3)", KERNEL, weight=array(2, 3, 3)),
    *rows([input_grad], SHAPE, "(9, 8)", IMAGES, input_size=(9, 8)),
    *rows([input_grad], SHAPE, "None", IMAGES, input_size=None),
    *rows([weight_grad], SHAPE, "(6, 2, 3)", KERNEL, weight_size=(6, 2, 3)),
    *rows([plan], SHAPE, "5", IMAGES, input_shape=5),
    *rows([plan], SHAPE, "'2489'", IMAGES, input_shape="2489"),
    # channels and groups
    *rows([forward], SHAPE, "(2, 5, 9, 8)", "groups is 2", "divide the 5 channels", input=array(2, 5, 9, 8)),
    *rows([forward, backward], SHAPE, "(5, 2, 3, 3)", "groups is 2", "divide the 5 filters", weight=array(5, 2, 3, 3)),
    *rows([forward, backward], SHAPE, "(6, 4, 3, 3)", "(2, 4, 9, 8)", "(6, 2, 3, 3)", weight=array(6, 4, 3, 3)),
    *rows([forward], SHAPE, "(6, 2, 3, 3)", "6 channels in 2 group(s)", "(6, 3, 3, 3)", input=array(2, 6, 9, 8)),
    *rows(DOORS, SHAPE, "groups is 4", "divide the 6 filters", groups=4),
    *rows(DOORS, SHAPE, "groups is 1", "4 channels in 1 group(s)", "(6, 4, 3, 3)", groups=1),
    *rows(DOORS, OPTION, "groups is 0", "the least is 1", groups=0),
    *rows(DOORS, OPTION, "groups is -1", "the least is 1", groups=-1),
    *rows(DOORS, OPTION, "groups is 2.0", "not an integer", groups=2.0),
    # sizes
    *rows([forward], SHAPE, "3 x 3", "2 x 8", "larger than the padded input", input=array(2, 4, 2, 8)),
    *rows([weight_grad], SHAPE, "3 x 9", "9 x 8", "larger than the padded input", weight_size=(6, 2, 3, 9)),
    *rows(DOORS, SHAPE, "3 x 3", "11 x 11 after dilation", "9 x 8", "larger than the padded input", dilation=5),
    *rows([forward, backward], SHAPE, "(2, 4, 0, 8)", "0 is too small, the least is 1", input=array(2, 4, 0, 8)),
    *rows([forward, backward], SHAPE, "(2, 0, 9, 8)", "0 is too small, the least is 1", input=array(2, 0, 9, 8)),
    *rows([forward, input_grad], SHAPE, "(0, 2, 3, 3)", "0 is too small, the least is 1", weight=array(0, 2, 3, 3)),
    *rows([forward, input_grad], SHAPE, "(6, 2, 0, 3)", "0 is too small, the least is 1", weight=array(6, 2, 0, 3)),
    *rows([plan], SHAPE, "(2, 4, -9, 8)", "-9 is too small", input_shape=(2, 4, -9, 8)),
    *rows([plan], SHAPE, "9.0 is not an integer", input_shape=(2, 4, 9.0, 8)),
    *rows([plan], SHAPE, "True is not an integer", input_shape=(2, True, 9, 8)),
    # what is legal and not implemented
    *rows([plan], UnsupportedError, str(2**41), str(2**40), input_shape=(2, 4, 2**41, 8)),
    *rows(DOORS, UnsupportedError, f"stride is {2**41}", str(2**40), stride=2**41),
    *rows(DOORS, UnsupportedError, "257 x 257 after dilation", "256", dilation=128, padding=140),
    *rows([plan], UnsupportedError, "257 x 3", "256", weight_shape=(6, 2, 257, 3), input_shape=(2, 4, 299, 99)),
    # arrays that must fit the others
    *rows([forward], SHAPE, "bias", "(5,)", "(6,)", bias=array(5)),
    *rows([forward], SHAPE, "bias", "(1, 6)", "(6,)", bias=array(1, 6)),
    *wrong_out("out with a row too many", lambda m, s: m.poisoned(*s[:2], s[2] + 1, s[3]), SHAPE, "it must be"),
    *wrong_out("out without a batch", lambda m, s: m.poisoned(*s[1:]), SHAPE, "it must be"),
    # padding
    *rows(DOORS, OPTION, "padding is -1", "the least is 0", padding=-1),
    *rows(DOORS, OPTION, "padding is (0, -1)", "the least is 0", padding=(0, -1)),
    *rows(DOORS, OPTION, "padding is ((0, 1), (-1, 0))", "the least is 0", padding=((0, 1), (-1, 0))),
    *rows(DOORS, OPTION, "padding is 'same'", "stride is (2, 1)", "needs stride 1", padding="same", stride=(2, 1)),
    # what the plan refuses
    *rows(DOORS, OPTION, "precision", "fp17", precision="fp17"),
    *rows([plan], OPTION, "fft_size", "14", "18", weight_shape=(6, 2, 9, 3), dilation=2, padding=9, fft_size=14),
    *rows([plan], OPTION, "device", "gpu", device="gpu"),
    *rows([plan], OPTION, "workspace_limit", "-1", workspace_limit=-1),
    *rows([plan], WorkspaceError, "workspace_limit", "10", workspace_limit=10),
    # not an array
    *wrong_array("list", np.ndarray.tolist, "list", "must be an array"),
    *wrong_array("float", lambda a: 1.5, "float", "must be an array"),
    *wrong_array("NumPy scalar", lambda a: a.flat[0], "float32", "must be an array"),
    *wrong_array("str", lambda a: "input", "str", "must be an array"),
    *wrong_array("masked array", np.ma.masked_array, "MaskedArray", "must be an array"),
    *rows([forward, weight_grad, backward], TYPE, "input is a NoneType", "must be an array", input=None),
    *rows([forward, input_grad, backward], TYPE, "weight is a NoneType", "must be an array", weight=None),
    *wrong_out("list", lambda m, s: m.poisoned(*s).tolist(), TYPE, "list", "must be an array"),
    # dtypes
    *wrong_out("float64", lambda m, s: m.poisoned(*s, dtype="float64"), TYPE, "float64", "it must be float32"),
    *wrong_out("int32", lambda m, s: m.keep(np.zeros(s, "int32")), TYPE, "int32", "float32"),
    *wrong_array("float8", lambda a: torch().tensor(a).to(torch().float8_e5m2), "Float8", "float32 or float64"),
    *wrong_array("gradient", lambda a: torch().tensor(a, requires_grad=True), "gradient", "detach()"),
    *wrong_array("sparse", lambda a: torch().tensor(a).to_sparse(), "Sparse", "dense"),
    *wrong_array("mkldnn", lambda a: torch().tensor(a).to_mkldnn(), "Tensor", "dense"),
    *wrong_array("meta", lambda a: torch().tensor(a).to("meta"), "meta", "float32 or float64"),
    # other devices
    *wrong_array("CUDA array", OnCuda, "OnCuda", "pointer is 0" if GPU else "NVIDIA driver", error=ON_GPU),
    *([] if GPU else wrong_array("by DLPack", lambda a: OnDevice(2), "CUDA", "host memory", error=UnsupportedError)),
    *wrong_array("Metal array by DLPack", lambda a: OnDevice(8), "device 8", "host memory"),
    # an out that cannot be written
    *wrong_out("read-only", read_only, OPTION, "read-only", "writable"),
    *wrong_out("repeated", repeated, OPTION, "overlaps itself", "memory of its own"),
    *wrong_out("sliding", sliding, OPTION, "overlaps itself", "(4, 4, 4, 4)"),
    *wrong_out("unaligned", unaligned, OPTION, "not aligned", "float32"),
    # plans, spectra and workspaces of something else
    *rows(RUNNING, TYPE, "plan is 'fast'", "plan_conv2d", plan="fast"),
    *rows(RUNNING, MISMATCH, "input_shape is (2, 4, 9, 8) and the plan has (3, 4, 9, 8)", plan=BATCH_OF_3),
    *rows(RUNNING, MISMATCH, "weight_shape is (6, 2, 3, 3) and the plan has (6, 2, 3, 2)", plan=NARROW),
    *rows(RUNNING, MISMATCH, "dtype is 'float32' and the plan has 'float64'", plan=planned(dtype="float64")),
    *rows(RUNNING, MISMATCH, "stride is (1, 1) and the plan has (2, 2)", stride=(1, 1), plan=planned(stride=2)),
    *rows(RUNNING, MISMATCH, "padding is ((1, 1), (2, 2)) and the plan has", padding=(1, 2), plan=planned()),
    *rows(RUNNING, MISMATCH, "dilation is (1, 2) and the plan has (1, 1)", dilation=(1, 2), plan=planned()),
    *rows(RUNNING, MISMATCH, "precision is 'tf32' and the plan has 'fp32'", precision="tf32", plan=planned()),
    *rows(RUNNING, OPTION, "precision is 'fp17'", "fp32", precision="fp17", plan=planned()),
    *rows(RUNNING, MISMATCH, "device 'sm_90'", "device 'cpu'", plan=planned(device="sm_90", fft_size=None)),
    *rows(RUNNING, WorkspaceError, "7 bytes", "workspace_size", plan=planned(), workspace=working(7, lambda a: a)),
    *rows(RUNNING, TYPE, "workspace is a int", plan=planned(), workspace=7),
    *rows(RUNNING, OPTION, "read-only or not contiguous", plan=planned(), workspace=working(10**6, frozen)),
    *rows(RUNNING, OPTION, "read-only or not contiguous", plan=planned(), workspace=working(10**6, lambda a: a[::2])),
    *rows(RUNNING, OPTION, "read-only or not contiguous", plan=planned(), workspace=working(10**6, lambda a: a[::-1])),
    *rows(RUNNING, TYPE, "dtype object", "uint8", plan=planned(), workspace=OBJECTS),
    *rows([method("transform_weight", "weight")], TYPE, "SpectralWeight", "transformed already", weight=spectral()),
    *rows([method("transform_input", "input")], TYPE, "SpectralInput", "already", input=spectral_input()),
    *rows([method("weight_grad", *METHODS["weight_grad"])], TYPE, "input is a", "SpectralWeight", input=spectral()),
    *rows([method("forward", *METHODS["forward"])], TYPE, "weight is a", "SpectralInput", weight=spectral_input()),
    *rows([forward], TYPE, "input is a numba_fftconv.spectral.SpectralInput", input=spectral_input()),
    *rows([keeping("transform_input")], WorkspaceError, "out has 7 bytes", 'spectrum_size["input"]', out=SEVEN),
    *rows([keeping("transform_weight")], WorkspaceError, "out has 7 bytes", 'spectrum_size["weight"]', out=SEVEN),
    *rows([keeping("transform_input")], TYPE, "out is a int", out=7),
    *rows([forward], TYPE, "input is a numba_fftconv.spectral.SpectralWeight", input=spectral()),
    *rows(RUNNING, OPTION, "stream", "7", "CPU", stream=7),
]
# words and orders that only look like pairs
NO_PAIRS = ({1, 2}, {1: 2, 3: 4}, {1: 2, 3: 4}.keys(), b"\x01\x02", bytearray(b"\x01\x02"))
for name in ("stride", "dilation", "padding"):
    for value in (*NO_PAIRS, np.array([1.0, 2.0]), np.array(1.0), np.array(True), np.array([1])):
        TABLE += rows(DOORS, OPTION, f"{name} is {value!r}", "an int", **{name: value})
for value in ({2, 4, 9, 8}, {2: 0, 4: 0, 9: 0, 8: 0}, bytes((2, 4, 9, 8))):
    TABLE += rows([plan], SHAPE, f"input shape is {value!r}", IMAGES, input_shape=value)
    TABLE += rows([input_grad], SHAPE, f"input shape is {value!r}", IMAGES, input_size=value)
for value in ({6, 2, 3, 1}, bytes((6, 2, 3, 3))):
    TABLE += rows([weight_grad], SHAPE, f"weight shape is {value!r}", KERNEL, weight_size=value)
for value in ("abc", ("no", "no", "no"), {1, 2, 3}, {0: 1, 1: 1, 2: 0}, (1, 1), (1, 1, 2), (None, 1, 1), 7, None):
    TABLE += rows([backward], OPTION, f"output_mask is {value!r}", "three bools", output_mask=value)
TABLE += rows([backward], OPTION, "output_mask", "three bools", output_mask=(np.array([1, 2]), 1, 1))
for value in (["fp32"], np.array(["fp32", "tf32"]), 32):
    TABLE += rows(DOORS, OPTION, f"precision is {value!r}", "fp32", precision=value)
for value in (["cpu"], np.array(["cpu", "cuda"]), 0, "", "CPU", "cuda:", "sm_", "sm_90:1"):
    TABLE += rows([plan], OPTION, f"device is {value!r}", "'cpu'", "sm_90", device=value)
TABLE += rows([plan], UnsupportedError, "device is 'sm_75'", "sm_90", device="sm_75")
for value in () if GPU else ("cuda", "cuda:1"):
    TABLE += rows([plan], UnsupportedError, "NVIDIA driver", "install", device=value)
for value in ("sm_80", "sm_90"):
    TABLE += rows([plan], UnsupportedError, "dtype is float64", "float32", dtype="float64", device=value)
    TABLE += rows([plan], OPTION, "precision is 'fp16'", "tf32x3", precision="fp16", device=value)
for value in (np.array(1e8), np.array([10**8]), 1e8, True, "1 GB", (10**8,), 0):
    TABLE += rows([plan], OPTION, f"workspace_limit is {value!r}", workspace_limit=value)
for name, value in (("padding", 2**40), ("padding", 2**33)):
    TABLE += rows(DOORS, UnsupportedError, "output shape is", "samples", str(2**56), **{name: value})
TABLE += rows([input_grad], UnsupportedError, "input shape is", str(2**56), input_size=(2**30, 4, 2**30, 9))
TABLE += rows([plan], UnsupportedError, "input shape is", str(2**56), input_shape=(2**20, 4, 2**20, 2**20))
for name in ("stride", "dilation"):
    for value in (0, -2, (1, 0)):
        TABLE += rows(DOORS, OPTION, f"{name} is {value!r}", "is too small, the least is 1", **{name: value})
    for value in (1.5, "two", (1, 1, 1), None):
        TABLE += rows(DOORS, OPTION, f"{name} is {value!r}", PAIR, **{name: value})
    TABLE += rows(DOORS, OPTION, f"{name} is True", "True is not an integer", **{name: True})
for value in ("full", "", 1.5, (1, 2, 3), ((1, 2, 3), 1), None):
    TABLE += rows(DOORS, OPTION, f"padding is {value!r}", "'valid' or 'same'", padding=value)
WRONG_SIZES = 2, 7, 22, 96, 512, -8, 2**70, 16.0, True, "big", (16,), (16, 16, 16), (16, 15), {16, 18}, np.array(16.0)
for value in WRONG_SIZES:
    TABLE += rows([plan], OPTION, f"fft_size is {value!r}", "64", fft_size=value)
for value in ("int32", "float31", None, "bfloat15", "float8_e4m3"):
    TABLE += rows([plan], TYPE, "dtype", str(value), "float32", dtype=value)
for shape in ((2, 6, 9, 8), (1, 6, 7, 6), (6, 7, 6), (2, 6, 6, 7)):
    given = {"grad_output": array(*shape)}
    TABLE += rows([input_grad, weight_grad, backward], SHAPE, "grad_output", str(shape), "(2, 6, 7, 6)", **given)
for dtype in ("int32", "int64", "uint8", "bool", "complex64", "longdouble", ">f4", ">f2", "S4", "O"):
    TABLE += wrong_array(dtype, lambda a, dtype=dtype: a.astype(dtype), str(np.dtype(dtype)), "float32 or float64")
for door, name in PLACES:
    shared = f"workspace of shape ({10**6},) shares memory with"
    TABLE += rows([door], OPTION, f"{shared} {name}", plan=planned(), **holding(name, name))
    mixed = {name: array(*SHAPES[name], dtype="float64")}
    TABLE += rows([door], TYPE, f"{name} has dtype float64", "has dtype float32", "one dtype", **mixed)
    if door in PASSES:
        TABLE += rows(
            [door], OPTION, f"shares memory with {name}", str(SHAPES[name]), **overlapping(PASSES[door], name)
        )
for method_name, names in METHODS.items():
    for name in names:
        longer, double = {name: array(*SHAPES[name][:3], 5)}, {name: array(*SHAPES[name], dtype="float64")}
        doors = [method(method_name, *names)]
        TABLE += rows(doors, MISMATCH, name, str((*SHAPES[name][:3], 5)), str(SHAPES[name]), **longer)
        TABLE += rows(doors, MISMATCH, name, "float64", "float32", **double)
for door, name in PASSES.items():
    shared = f"workspace of shape ({10**6},) shares memory with out"
    TABLE += rows([door], OPTION, shared, plan=planned(), **holding("out", name))
FOREIGN: list[tuple[dict[str, Any], str]] = [
    ({"fft_size": 20}, "fft_size (20, 20) where {} has (16, 16)"),
    ({"dtype": "float64"}, "dtype 'float64' where {} has 'float32'"),
    ({"dilation": 2}, "dilation (2, 2) where {} has (1, 1)"),
    ({"input_shape": (2, 6, 9, 8), "groups": 3}, "groups 3 where {} has 2"),
]
TAKING_A_WEIGHT = [forward, input_grad, backward]
TAKING_A_WEIGHT += [method(name, *METHODS[name]) for name in ("forward", "input_grad", "backward")]
for foreign, said in FOREIGN:
    given = {"weight": spectral(**foreign)}
    TABLE += rows(TAKING_A_WEIGHT[3:], MISMATCH, "SpectralWeight", said.format("the plan"), **given)
    TABLE += rows(TAKING_A_WEIGHT[:3], MISMATCH, "SpectralWeight", said.format("the plan"), **given, plan=planned())
    if "fft_size" not in foreign:
        TABLE += rows(TAKING_A_WEIGHT[:3], MISMATCH, "SpectralWeight", said.format("this call"), **given)
FOREIGN_LAYERS: list[tuple[dict[str, Any], str]] = [
    ({"fft_size": 20}, "fft_size (20, 20) where the plan has (16, 16)"),
    ({"dtype": "float64"}, "dtype 'float64' where the plan has 'float32'"),
    ({"padding": 1}, "pad_top=1"),
]
for foreign, said in FOREIGN_LAYERS:
    taking = [method(name, *METHODS[name]) for name in ("forward", "weight_grad", "backward")]
    given = {"input": spectral_input(**foreign)}
    TABLE += rows(taking, MISMATCH, "input is a SpectralInput", said, "transform the input", **given)
narrow = {"weight": spectral(weight_shape=(6, 2, 3, 2))}
TABLE += rows(TAKING_A_WEIGHT[3:], MISMATCH, "weight_shape (6, 2, 3, 2) where the plan has (6, 2, 3, 3)", **narrow)
TABLE += rows(TAKING_A_WEIGHT[:3], MISMATCH, "weight_shape is (6, 2, 3, 2) and the plan", **narrow, plan=planned())


@pytest.mark.parametrize("door", DOORS)
def test_a_call_is_right_before_it_is_changed(door: Callable[..., Any]) -> None:
    memory = Memory()
    door(memory)
    assert memory.is_unchanged() == (door not in PASSES)


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_a_wrong_call_says_so_and_changes_nothing(row: Row) -> None:
    memory = Memory()
    with pytest.raises(row.error) as caught:
        row.call(memory)
    assert type(caught.value) is row.error
    assert all(word in str(caught.value) for word in row.words), str(caught.value)
    assert memory.is_unchanged()


@pytest.mark.parametrize("name", [["fwd"], "fwd", None, {"forward"}])
def test_profile_takes_the_name_of_a_pass(name: Any) -> None:
    m = Memory()
    with pytest.raises(InvalidOptionError) as caught:
        plan(m).profile(name, *m.named("input", "weight").values())
    assert repr(name) in str(caught.value) and "weight_grad" in str(caught.value)


@pytest.mark.parametrize("spectral_door", [forward, input_grad, backward])
def test_a_workspace_must_not_hold_the_spectrum(spectral_door: Callable[..., Any]) -> None:
    m = Memory()
    weight = plan(m).transform_weight(m.random(*SHAPES["weight"]))
    m.keep(weight.array)
    with pytest.raises(InvalidOptionError, match=r"workspace .* shares memory with weight"):
        spectral_door(m, weight=weight, plan=plan(m), workspace=weight.array)
    assert m.is_unchanged()


@pytest.mark.parametrize("mask", [(False, False, True), (True, False, False), (False, True, False)])
def test_a_workspace_must_not_hold_what_is_not_wanted(mask: tuple[bool, bool, bool]) -> None:
    for name in SHAPES:
        if name != "bias":
            m = Memory()
            given = {key: made.make(m) for key, made in holding(name, name).items()}
            with pytest.raises(InvalidOptionError, match=f"shares memory with {name}"):
                backward(m, output_mask=mask, plan=plan(m), **given)
            assert m.is_unchanged()


def test_output_masks_of_every_kind_of_bool() -> None:
    m = Memory()
    want = backward(m)
    for mask in ((1, 0, 1), [True, False, True], np.array([True, False, True]), (np.True_, np.int64(0), True)):
        got = backward(m, output_mask=mask)
        assert got[1] is None and np.array_equal(got[0], want[0]) and np.array_equal(got[2], want[2])


# ---- more than a machine has


def test_a_result_larger_than_the_memory() -> None:
    """Petabytes of gradient, of one sample that is repeated."""
    dy = np.broadcast_to(np.float32(1), (2**40, 6, 7, 6))
    with pytest.raises(WorkspaceError, match=rf"\({2**40}, 4, 9, 8\) takes {2**40 * 288 * 4:,} bytes"):
        input_grad(Memory(), input_size=(2**40, 4, 9, 8), grad_output=dy, out=None)


TRANSFORMS = [method(f"transform_{name}", name) for name in ("input", "weight")]


@pytest.mark.parametrize("door", [*RUNNING, *TRANSFORMS])
def test_a_workspace_or_a_spectrum_larger_than_the_memory(
    door: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def memory(*size: Any) -> np.ndarray:
        raise MemoryError

    m = Memory()
    monkeypatch.setattr(threads, "memory", memory)
    if door in TRANSFORMS:
        monkeypatch.setattr(cpu_call.Call, "empty", memory)
    with pytest.raises(WorkspaceError, match=r"takes .* bytes"):
        door(m)
    assert m.is_unchanged()


# ---- samples that are not numbers


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["input", "weight", "grad_output"])
def test_nan_and_inf_reach_what_a_direct_convolution_would_spoil(bad: float, name: str) -> None:
    options = {"stride": (2, 1), "padding": ((1, 2), (0, 3)), "dilation": (1, 2), "groups": 2}
    x, w, dy = Memory().random(2, 4, 90, 9), Memory().random(6, 2, 3, 3), Memory().random(2, 6, 46, 8)
    spoiled = {"input": x, "weight": w, "grad_output": dy}[name]
    spoiled[-1, 1, 2, 1] = bad
    with np.errstate(invalid="ignore"):
        for got, want in (
            (conv2d(x, w, **options), reference.forward(x, w, **options)),
            (conv2d_input_grad(x.shape, w, dy, **options), reference.input_grad(x.shape, w, dy, **options)),
            (conv2d_weight_grad(x, w.shape, dy, **options), reference.weight_grad(x, w.shape, dy, **options)),
        ):
            assert not np.isfinite(got[~np.isfinite(want)]).any()
