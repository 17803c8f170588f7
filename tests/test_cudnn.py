"""cuDNN's algorithms by name: every argument in the order of the headers, against a library that does what they say.

The library's functions are C functions to ctypes, so that each argument is converted as for cuDNN; they look up the
descriptors that they are given, refuse one of the wrong kind, and compute the pass from the pointers.
"""
import ctypes
import gc
import math
import sys
from collections.abc import Iterator
from ctypes import c_float, c_int, c_size_t, c_void_p
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[1] / "perf"))

import cudnn  # noqa: E402
import peers  # noqa: E402
from layers import ALL_PASSES, Layer  # noqa: E402
from torch_peers import torch_call  # noqa: E402

# The parameters of cudnn_graph.h, cudnn_ops.h and cudnn_cnn.h, in their order.
HOW = "convolution algorithm workspace bytes"
HEADER = {
    "cudnnCreate": "out",
    "cudnnSetStream": "handle stream",
    "cudnnCreateTensorDescriptor": "out",
    "cudnnCreateFilterDescriptor": "out",
    "cudnnCreateConvolutionDescriptor": "out",
    "cudnnDestroyTensorDescriptor": "tensor",
    "cudnnDestroyFilterDescriptor": "filter",
    "cudnnDestroyConvolutionDescriptor": "convolution",
    "cudnnSetTensor4dDescriptor": "tensor format type n c h w",
    "cudnnSetFilter4dDescriptor": "filter type format k c h w",
    "cudnnSetConvolution2dDescriptor": "convolution pad_h pad_w stride_h stride_w dilation_h dilation_w mode type",
    "cudnnSetConvolutionMathType": "convolution math",
    "cudnnSetConvolutionGroupCount": "convolution groups",
    "cudnnGetConvolutionForwardWorkspaceSize": "handle tensor filter convolution tensor algorithm size",
    "cudnnGetConvolutionBackwardDataWorkspaceSize": "handle filter tensor convolution tensor algorithm size",
    "cudnnGetConvolutionBackwardFilterWorkspaceSize": "handle tensor tensor convolution filter algorithm size",
    "cudnnConvolutionForward": f"handle factor tensor data filter data {HOW} factor tensor data",
    "cudnnConvolutionBackwardData": f"handle factor filter data tensor data {HOW} factor tensor data",
    "cudnnConvolutionBackwardFilter": f"handle factor tensor data tensor data {HOW} factor filter data",
}
POINTERS = {"out", "handle", "stream", "tensor", "filter", "convolution", "data", "workspace", "factor", "size"}
PASS_OF = {"Forward": "forward", "BackwardData": "input_grad", "BackwardFilter": "weight_grad"}
FFT = {"forward": {"FFT": 4, "FFT_TILING": 5}, "input_grad": {"FFT": 2, "FFT_TILING": 3},
       "weight_grad": {"FFT": 2, "FFT_TILING": 6}}
READS = {"forward": ("x", "w"), "input_grad": ("w", "dy"), "weight_grad": ("x", "dy")}
STREAM, WORKSPACE = 77, 5000
SUCCESS, NOT_SUPPORTED_SHAPE, EXECUTION_FAILED = 0, 3002, 5000
NAMES = {NOT_SUPPORTED_SHAPE: b"CUDNN_STATUS_NOT_SUPPORTED_SHAPE", EXECUTION_FAILED: b"CUDNN_STATUS_EXECUTION_FAILED"}
LAYER = Layer("tests/odd", "tests", 3, 4, 13, 11, 6, 5, 3, padding=(2, 1), stride=(2, 3), groups=2)


class Library:
    """cuDNN as the headers have it; `fails` holds the status that asking its size, or running, an algorithm returns."""

    def __init__(self) -> None:
        self.fails: dict[tuple[str, int], int] = {}
        self.made: dict[int, tuple[str, dict[str, int]]] = {}  # what stands at an address
        self.addresses = count(0x7F0000000000, 64)  # longer than an int
        self.streams: list[int] = []
        self.ran: list[tuple[str, int]] = []
        self.faults: list[str] = []
        for name, words in HEADER.items():
            types = [c_void_p if word in POINTERS else c_size_t if word == "bytes" else c_int for word in words.split()]
            setattr(self, name, ctypes.CFUNCTYPE(c_int, *types)(partial(self.called, name, words.split())))
        self.cudnnGetErrorString = lambda status: NAMES[status]
        self.cudnnGetLastErrorString = lambda message, size: setattr(message, "value", b"too\n  large")

    def called(self, name: str, words: list[str], *values: int) -> int:
        """What ctypes calls: an exception here would be lost."""
        try:
            for word, value in zip(words, values, strict=True):
                if word in ("handle", "tensor", "filter", "convolution"):
                    assert self.made[value][0] == word, f"{word} is a {self.made[value][0]}"
            return self.do(name.removeprefix("cudnn"), words, values)
        except Exception as error:
            self.faults.append(f"{name}{values}: {error!r}")
            return EXECUTION_FAILED

    def do(self, name: str, words: list[str], values: tuple[int, ...]) -> int:
        if name.startswith("Create"):
            kind = name.removeprefix("Create").removesuffix("Descriptor").lower() or "handle"
            address = next(self.addresses)
            self.made[address] = kind, {}
            c_void_p.from_address(values[0]).value = address
        elif name.startswith("Destroy"):
            del self.made[values[0]]
        elif name == "SetStream":
            self.streams.append(values[1])
        elif name.startswith("Set"):
            self.made[values[0]][1].update(zip(words[1:], values[1:], strict=True))
        elif name.startswith("Get"):
            c_size_t.from_address(values[-1]).value = WORKSPACE
            return self.fails.get(("size", values[-2]), SUCCESS)
        else:
            return self.convolve(PASS_OF[name.removeprefix("Convolution")], words, values)
        return SUCCESS

    def convolve(self, pass_name: str, words: list[str], values: tuple[int, ...]) -> int:
        given = dict(zip(words, values, strict=True))
        pairs = list(zip(words, values, strict=True))
        assert [c_float.from_address(value).value for word, value in pairs if word == "factor"] == [1, 0]
        assert given["bytes"] == WORKSPACE
        ctypes.memset(given["workspace"], 0xFF, WORKSPACE)
        described = [(at, there) for (word, at), (_, there) in pairwise(pairs) if word in ("tensor", "filter")]
        arrays = [self.array(descriptor, pointer) for descriptor, pointer in described]
        how = self.made[given["convolution"]][1]
        assert (how["mode"], how["type"], how["math"]) == (1, 0, 3)  # correlation, float, no tensor cores
        assert (how["dilation_h"], how["dilation_w"]) == (1, 1)
        result = self.by_torch(pass_name, how, *arrays)
        assert result.shape == arrays[2].shape
        arrays[2][...] = result
        self.ran.append((pass_name, given["algorithm"]))
        return self.fails.get(("run", given["algorithm"]), SUCCESS)

    def array(self, descriptor: int, pointer: int) -> Any:
        """The samples where the pointer points to, in the shape of the descriptor."""
        said = dict(self.made[descriptor][1])
        assert (said.pop("format"), said.pop("type")) == (0, 0)  # NCHW, float
        shape = tuple(said.values())
        samples = (c_float * math.prod(shape)).from_address(pointer)
        return torch.from_numpy(np.ctypeslib.as_array(samples).reshape(shape))

    def by_torch(self, pass_name: str, how: dict[str, int], first: Any, second: Any, out: Any) -> Any:
        options = {"stride": (how["stride_h"], how["stride_w"]), "padding": (how["pad_h"], how["pad_w"])}
        options["groups"] = how["groups"]
        if pass_name == "forward":
            return torch.nn.functional.conv2d(first, second, **options)
        if pass_name == "input_grad":
            return torch.nn.grad.conv2d_input(out.shape, first, second, **options)
        return torch.nn.grad.conv2d_weight(first, out.shape, second, **options)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """The library in the place of cuDNN; nothing that it was called with was wrong."""
    fake = Library()
    forget()
    monkeypatch.setattr(cudnn, "load", lambda: fake)
    monkeypatch.setattr(cudnn, "stream", lambda: STREAM)
    yield fake
    gc.collect()
    forget()
    assert fake.faults == []


def forget() -> None:
    cudnn.library.cache_clear()
    cudnn.handle.cache_clear()


def tensors(layer: Layer) -> dict[str, Any]:
    return {name: torch.as_tensor(array) for name, array in peers.operands(layer).items()}


@pytest.mark.parametrize("pass_name", ALL_PASSES)
def test_each_algorithm_computes_its_pass(library: Library, pass_name: str) -> None:
    arrays = tensors(LAYER)
    before = {name: array.clone() for name, array in arrays.items()}
    settings = cudnn.settings(LAYER, pass_name, arrays, 1)
    assert set(settings) == set(FFT[pass_name])
    for call in settings.values():
        for _ in range(2):
            torch.testing.assert_close(call(), torch_call(LAYER, pass_name, **before))
    assert library.ran == [(pass_name, number) for number in FFT[pass_name].values() for _ in range(2)]
    assert library.streams == [STREAM] * 4
    for name in READS[pass_name]:
        assert torch.equal(arrays[name], before[name]), f"{name} was written to"


def test_arrays_that_are_not_contiguous(library: Library) -> None:
    arrays = tensors(LAYER)
    strided = {name: array.contiguous(memory_format=torch.channels_last) for name, array in arrays.items()}
    for pass_name in ALL_PASSES:
        call = cudnn.settings(LAYER, pass_name, strided, 1)["FFT"]
        torch.testing.assert_close(call(), torch_call(LAYER, pass_name, **arrays))


@pytest.mark.parametrize("where", ["size", "run"])
def test_what_cudnn_refuses_says_so_and_the_other_runs(library: Library, where: str) -> None:
    library.fails[where, FFT["forward"]["FFT"]] = NOT_SUPPORTED_SHAPE
    settings = cudnn.settings(LAYER, "forward", tensors(LAYER), 1)
    with pytest.raises(cudnn.CudnnError) as caught:
        settings["FFT"]()
    said = str(caught.value)
    assert said.startswith("not supported for this layer (cudnn"), said
    assert said.endswith("CUDNN_STATUS_NOT_SUPPORTED_SHAPE, too large)"), said
    settings["FFT_TILING"]()


def test_a_failure_is_no_lack_of_support(library: Library) -> None:
    library.fails["run", FFT["forward"]["FFT_TILING"]] = EXECUTION_FAILED
    with pytest.raises(cudnn.CudnnError, match=r"^cudnnConvolutionForward: CUDNN_STATUS_EXECUTION_FAILED, too large$"):
        cudnn.settings(LAYER, "forward", tensors(LAYER), 1)["FFT_TILING"]()


def test_descriptors_go_with_their_setting(library: Library) -> None:
    settings = cudnn.settings(LAYER, "weight_grad", tensors(LAYER), 1)
    settings["FFT"]()
    assert len(library.made) == 1 + 4 * len(settings)
    del settings
    gc.collect()
    assert [kind for kind, _ in library.made.values()] == ["handle"]


def test_float64_is_not_offered(library: Library) -> None:
    layer = Layer("tests/float64", "tests", 1, 1, 8, 8, 1, 3, 3, dtype="float64")
    assert cudnn.settings(layer, "forward", tensors(layer), 1) == {}


def test_without_the_library_the_peer_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        return ctypes.CDLL("libcudnn.so.of.no.version")

    forget()
    monkeypatch.setattr(cudnn, "load", missing)
    offers = peers.offers({"cuDNN FFT": "cudnn.settings"}, LAYER, "forward", tensors(LAYER), 1)
    assert offers.settings == {}
    assert offers.absent == {"cuDNN FFT": "libcudnn.so.9 is not installed"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs torch with CUDA, and this torch has none")
@pytest.mark.parametrize("pass_name", ALL_PASSES)
def test_on_a_gpu(pass_name: str) -> None:
    """Each algorithm agrees with torch, or cuDNN says that it does not support the layer."""
    forget()
    layer = Layer("tests/gpu", "tests", 8, 16, 32, 32, 24, 5, 5, padding=(2, 2))
    arrays = {name: array.cuda() for name, array in tensors(layer).items()}
    want = torch_call(layer, pass_name, **{name: array.double() for name, array in arrays.items()})
    for name, call in cudnn.settings(layer, pass_name, arrays, 1).items():
        try:
            got = call().double()
        except cudnn.CudnnError as error:
            assert str(error).startswith("not supported for this layer"), f"{name}: {error}"
            continue
        assert float((got - want).norm() / want.norm()) < 1e-5, name
