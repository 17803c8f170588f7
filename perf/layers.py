"""The layers that are timed: who published them, their figures, and the ratio to a peer that the project promises.

Only tables stand here; nothing is imported that could start a thread before the command line has set the thread counts.
"""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

ALL_PASSES = ("forward", "input_grad", "weight_grad")
PUBLISHED_BATCH = 128
PRECISIONS = ("fp32", "tf32x3", "bf16x3", "tf32")  # of float32 layers

CPU_FLOORS = "numba_fftconv, promised on two threads of one CPU"
MANY_IMAGES = "numba_fftconv, layers of which a CPU keeps spectra for backward"
FBFFT = "fbcunn@c24a839 test/benchmark_fft.lua; Vasilache et al., fbfft, arXiv 1412.7580, table 4"
ALEXNET = "soumith/convnet-benchmarks@b458aab; Krizhevsky, One weird trick, arXiv 1404.5997"
REPLKNET = "DingXiaoH/RepLKNet-pytorch@b76808a, RepLKNet-31B at 224; arXiv 2203.06717 (the batch is ours)"
CONVNEXT = "facebookresearch/ConvNeXt@048efce, ConvNeXt-T at 224; arXiv 2201.03545 (the batch is ours)"


@dataclass(frozen=True)
class Target:
    """A promise: this pass is at least `ratio` times as fast as the peer."""

    pass_name: str
    peer: str
    ratio: float


@dataclass(frozen=True)
class Layer:
    """One convolution layer, x[N,C,H,W] with w[K,C/groups,R,S]; `batch_scales` where N is a batch for GPUs."""

    name: str
    source: str
    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    padding: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    dtype: str = "float32"
    precision: str | None = None  # ours; None is the dtype's own
    passes: tuple[str, ...] = ALL_PASSES
    batch_scales: bool = False
    targets: tuple[Target, ...] = ()

    def at_batch(self, images: int) -> "Layer":
        """The layer with `images` in place of a published batch of 128, other published batches in proportion."""
        return replace(self, N=max(1, self.N * images // PUBLISHED_BATCH)) if self.batch_scales else self

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.K, self.C // self.groups, self.R, self.S

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        P = (self.H + 2 * self.padding[0] - self.R) // self.stride[0] + 1
        Q = (self.W + 2 * self.padding[1] - self.S) // self.stride[1] + 1
        return self.N, self.K, P, Q

    @property
    def options(self) -> dict[str, Any]:
        """The keywords that numba_fftconv and torch share."""
        return {"stride": self.stride, "padding": self.padding, "groups": self.groups}

    @property
    def problem(self) -> str:
        """The figures in one phrase: 16x64x32x32 -> 64, 5x5, padding 2."""
        extras = [f"padding {self.padding[0]}"] if any(self.padding) else []
        extras += [f"stride {self.stride[0]}"] if self.stride != (1, 1) else []
        extras += [f"{self.groups} groups"] if self.groups > 1 else []
        extras += [self.dtype] if self.dtype != "float32" else []
        extras += [self.precision] if self.precision else []
        return ", ".join([f"{self.N}x{self.C}x{self.H}x{self.W} -> {self.K}, {self.R}x{self.S}", *extras])

    def target(self, pass_name: str, peer: str) -> float | None:
        """The promised ratio, None where nothing is promised."""
        return next((t.ratio for t in self.targets if (t.pass_name, t.peer) == (pass_name, peer)), None)


def _speed(name: str, shape: tuple[int, ...], kernel: int, dtype: str = "float32", **promises: float) -> Layer:
    """A row of the promise; promises are named forward, input_grad, weight_grad (over torch) and scipy (forward)."""
    N, C, H, W, K = shape
    peers = {"scipy": ("forward", "scipy")}
    targets = tuple(Target(*peers.get(key, (key, "torch")), ratio) for key, ratio in promises.items())
    return Layer(f"speed/{name}", CPU_FLOORS, N, C, H, W, K, kernel, kernel, dtype=dtype, targets=targets)


def _published(name: str, source: str, figures: tuple[int, ...], *, first: bool = False) -> Layer:
    """A published layer, all of it square: N, C, H, K, R, padding, stride, groups; a first layer has no input_grad."""
    N, C, H, K, R, padding, stride, groups = figures
    passes = tuple(p for p in ALL_PASSES if not (first and p == "input_grad"))
    square = {"padding": (padding, padding), "stride": (stride, stride)}
    return Layer(name, source, N, C, H, H, K, R, R, **square, groups=groups, passes=passes, batch_scales=True)


BODY = (16, 64, 32, 32, 64)

LAYERS: tuple[Layer, ...] = (
    _speed("k3", BODY, 3, forward=0.9),
    _speed("k5", BODY, 5, forward=4.0, input_grad=3.5, weight_grad=3.5),
    _speed("k7", BODY, 7, forward=4.0),
    _speed("k9", BODY, 9, forward=8.0, input_grad=7.0, weight_grad=7.0),
    _speed("k11", BODY, 11, forward=8.0),
    _speed("plane-k31", (1, 1, 1024, 1024, 1), 31, scipy=2.5, forward=20.0),
    _speed("image-k5", (1, 64, 32, 32, 64), 5, forward=0.9),
    _speed("image-k9", (1, 64, 32, 32, 64), 9, forward=1.2),
    _speed("rgb-k5", (16, 3, 32, 32, 64), 5, forward=0.9),
    _speed("float64-k9", BODY, 9, "float64", forward=2.0),
    Layer("training/rgb-k5", MANY_IMAGES, 128, 3, 32, 32, 64, 5, 5),
    Layer("training/planes-k5", MANY_IMAGES, 300, 16, 16, 16, 16, 5, 5, padding=(2, 2)),
    _published("fbfft/L1", FBFFT, (128, 3, 128, 96, 11, 0, 1, 1)),
    _published("fbfft/L2", FBFFT, (128, 64, 64, 64, 9, 0, 1, 1)),
    _published("fbfft/L3", FBFFT, (128, 128, 32, 128, 9, 0, 1, 1)),
    _published("fbfft/L4", FBFFT, (128, 128, 16, 128, 7, 0, 1, 1)),
    _published("fbfft/L5", FBFFT, (128, 384, 13, 384, 3, 0, 1, 1)),
    _published("alexnet/conv1", ALEXNET, (128, 3, 224, 64, 11, 2, 4, 1), first=True),
    _published("alexnet/conv2", ALEXNET, (128, 64, 27, 192, 5, 2, 1, 1)),
    _published("alexnet/conv3", ALEXNET, (128, 192, 13, 384, 3, 1, 1, 1)),
    _published("alexnet/conv4", ALEXNET, (128, 384, 13, 256, 3, 1, 1, 1)),
    _published("alexnet/conv5", ALEXNET, (128, 256, 13, 256, 3, 1, 1, 1)),
    _published("depthwise/replknet-stage1", REPLKNET, (64, 128, 56, 128, 31, 15, 1, 128)),
    _published("depthwise/replknet-stage2", REPLKNET, (64, 256, 28, 256, 29, 14, 1, 256)),
    _published("depthwise/replknet-stage3", REPLKNET, (64, 512, 14, 512, 27, 13, 1, 512)),
    _published("depthwise/convnext-stage1", CONVNEXT, (64, 96, 56, 96, 7, 3, 1, 96)),
    _published("depthwise/convnext-stage2", CONVNEXT, (64, 192, 28, 192, 7, 3, 1, 192)),
)

SETS = tuple(dict.fromkeys(layer.name.split("/")[0] for layer in LAYERS))


def select(words: list[str]) -> list[Layer]:
    """The layers that the words name, in the table's order: a layer, a set, a pattern such as 'fbfft/L[23]', 'all'."""
    chosen: set[str] = set()
    for word in words:
        pattern = "*" if word == "all" else f"{word}/*" if word in SETS else word
        found = {layer.name for layer in LAYERS if fnmatchcase(layer.name, pattern)}
        if not found:
            raise ValueError(f"no layer is named {word!r}: give all, {', '.join(SETS)}, or a name that --list prints")
        chosen |= found
    return [layer for layer in LAYERS if layer.name in chosen]


def named(name: str, images: int) -> Layer:
    """The layer of that name with so many images."""
    return replace(next(layer for layer in LAYERS if layer.name == name), N=images)
