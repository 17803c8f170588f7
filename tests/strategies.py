"""Hypothesis draws a whole layer at once and favours edges: 1, T-1, T, T+1 samples, a lane more or less than a block.

A Problem is plain data: its repr in a failure message makes the same arrays again, for example

    Problem(N=2, C=3, H=9, W=8, K=4, R=3, S=2, stride=(2, 1), padding="valid", seed=7, fft_size=8)
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import reference
from hypothesis import strategies as st

from numba_fftconv import ConvPlan, conv2d, conv2d_input_grad, conv2d_weight_grad, plan_conv2d
from numba_fftconv.cpu.schedule import Work
from numba_fftconv.cpu.vector import lanes

Pair = tuple[int, int]
Recorder = Callable[[str, float, str], None]  # see conftest.record_worst
PASSES = ("forward", "input_grad", "weight_grad")
UNIT = {"float32": 5e-7, "float64": 1e-14}


class Scope(NamedTuple):
    """What is drawn from: few lengths, as each new one costs seconds of compilation, and counts with their edges."""

    dtypes: tuple[str, ...] = ("float32", "float64")
    fft_sizes: tuple[int | Pair | None, ...] = (*2 * (8, 8, 12, 16), (8, 14), (4, 128), None)
    channels: tuple[int, ...] = (1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17)
    batches: tuple[int, ...] = (1, 1, 2, 3, 7, 8, 9, 15, 16, 17, 33)
    multiplications: float = 4e6  # of the reference in one pass
    longest: int = 50  # samples of a side; 130 where T is 64 or more


WHOLE = Scope()


class Arrays(NamedTuple):
    """The three arrays of a layer; each pass makes one of them from the other two."""

    x: np.ndarray
    w: np.ndarray
    dy: np.ndarray


@dataclass(frozen=True)
class Problem:
    """A layer, how it is asked for, and the seed of its arrays; image n is multiplied by scales[n % len(scales)]."""

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: int | Pair = 1
    padding: Any = 0
    dilation: int | Pair = 1
    groups: int = 1
    dtype: str = "float32"
    fft_size: int | Pair | None = 8
    batched: bool = True
    scales: tuple[float, ...] = (1.0,)
    seed: int = 0

    @property
    def title(self) -> str:
        """A name that is short enough for a list of tests."""
        return f"{self.N}x{self.C}x{self.H}x{self.W} to {self.K}, {self.R}x{self.S}, T {self.fft_size}"

    @property
    def options(self) -> dict[str, Any]:
        """The layer's options in the caller's words."""
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}

    @property
    def resolved(self) -> dict[str, Any]:
        """The layer's options as the reference takes them."""
        stride, dilation = _pair(self.stride), _pair(self.dilation)
        pads = self.padding
        if pads in ("valid", "same"):
            total = [(n - 1) * d * (pads == "same") for n, d in zip((self.R, self.S), dilation, strict=True)]
            pads = tuple((n // 2, n - n // 2) for n in total)
        elif isinstance(pads, int) or isinstance(pads[0], int):
            pads = tuple((n, n) for n in _pair(pads))
        return {"stride": stride, "padding": pads, "dilation": dilation, "groups": self.groups}

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (*self._batch, self.C, self.H, self.W)

    @property
    def w_shape(self) -> tuple[int, ...]:
        return self.K, self.C // self.groups, self.R, self.S

    @property
    def y_shape(self) -> tuple[int, ...]:
        rows, cols = (self.resolved[name] for name in ("stride", "dilation"))
        size = reference.outputs((self.H, self.W), (self.R, self.S), rows, self.resolved["padding"], cols)
        return (*self._batch, self.K, *size)

    @property
    def _batch(self) -> tuple[int, ...]:
        return (self.N,) if self.batched else ()

    def plan(self, **changes: Any) -> ConvPlan:
        """The plan of this layer on the CPU."""
        chosen: dict[str, Any] = {"dtype": self.dtype, "fft_size": self.fft_size, "device": "cpu", **changes}
        return plan_conv2d(self.x_shape, self.w_shape, **self.options, **chosen)

    def arrays(self, seed: int | None = None) -> Arrays:
        """Normal samples; those of x and dy are scaled by image."""
        rng = np.random.default_rng(self.seed if seed is None else seed)
        scale = np.resize(self.scales, self.N).reshape(-1, 1, 1, 1) if self.batched else self.scales[0]
        x, w, dy = (rng.standard_normal(shape) for shape in (self.x_shape, self.w_shape, self.y_shape))
        return Arrays(*(a.astype(self.dtype) for a in (x * scale, w, dy * scale)))

    def bias(self) -> np.ndarray:
        return np.random.default_rng(self.seed + 1).standard_normal(self.K).astype(self.dtype)

    @property
    def _four(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    def expected(self, a: Arrays) -> dict[str, np.ndarray]:
        """The results of the three passes by the definition, in float64, by the names of the passes."""
        x, dy = (np.asarray(b).reshape(-1, *b.shape[-3:]) for b in (a.x, a.dy))
        return {
            "forward": reference.forward(x, a.w, **self.resolved).reshape(self.y_shape),
            "input_grad": reference.input_grad(self._four, a.w, dy, **self.resolved).reshape(self.x_shape),
            "weight_grad": reference.weight_grad(x, self.w_shape, dy, **self.resolved),
        }

    def depth(self, plan: ConvPlan, name: str) -> int:
        """How many products a bin of a pass sums."""
        images = self.N * int(np.prod(plan.segments["weight_grad"]))
        return {"forward": self.C // self.groups, "input_grad": self.K // self.groups, "weight_grad": images}[name]

    def tolerance(self, plan: ConvPlan, name: str) -> float:
        """The relative L2 error that a pass may have."""
        return UNIT[self.dtype] * max(1.0, (self.depth(plan, name) / 256) ** 0.5)

    def sizes(self, a: Arrays, T: Pair) -> dict[str, np.ndarray]:
        """How large each result would be if the signs of all products were drawn by lot, as the root of a mean square.

        Unlike the results themselves these do not vanish where products cancel. A transform spreads its rounding over
        the whole tile, so no sample counts as smaller than the share of its plane's energy that falls on one sample.
        """
        squares = Arrays(*(np.square(b, dtype=np.float64) for b in a))
        typical = self.expected(squares)
        (top, bottom), (left, right) = self.resolved["padding"]
        samples = max(T[0], self.H + top + bottom) * max(T[1], self.W + left + right)
        points = Problem(self.N, self.C, 1, 1, self.K, 1, 1, groups=self.groups, batched=self.batched)
        energy = points.expected(Arrays(*(b.sum((-2, -1), keepdims=True) for b in squares)))
        return {name: np.sqrt(np.maximum(typical[name], energy[name] / samples)) for name in typical}


def companions(count: int, segments: int, dtype: str) -> list[list[int]]:
    """For each of `count` planes, cut into segments, the planes whose rounding it shares, itself among them.

    Segments lie one after the other, and segment m of a block of 2 L is the real part of a complex plane whose
    imaginary part is segment m + L.
    """
    L, whole = lanes(np.dtype(dtype).itemsize), count * segments
    partners = [m + L if m % (2 * L) < L else m - L for m in range(whole)]
    own = (range(n * segments, (n + 1) * segments) for n in range(count))
    return [sorted({n, *(partners[m] // segments for m in each if partners[m] < whole)}) for n, each in enumerate(own)]


def work_of(plan: ConvPlan, name: str) -> Work:
    """What the CPU engine knows of a pass of a plan."""
    work = plan.choice.by_pass[name].work
    assert work is not None
    return work


def call(plan: ConvPlan, a: Arrays, name: str, **keywords: Any) -> Any:
    """One pass of a plan, by its name."""
    operands = {"forward": (a.x, a.w), "input_grad": (a.dy, a.w), "weight_grad": (a.x, a.dy)}[name]
    return getattr(plan, name)(*operands, **keywords)


def result_shape(problem: Problem, name: str) -> tuple[int, ...]:
    return {"forward": problem.y_shape, "input_grad": problem.x_shape, "weight_grad": problem.w_shape}[name]


def poisoned(problem: Problem, name: str) -> np.ndarray:
    """An array for the result of a pass, full of NaN."""
    return np.full(result_shape(problem, name), np.nan, problem.dtype)


def relaid(a: np.ndarray, layout: str) -> np.ndarray:
    """The same samples, lying otherwise in memory."""
    if layout == "gaps":  # every other sample of a larger array
        poison = np.nan if a.dtype.kind == "f" else 0xFFFF  # as bits of bfloat16 a NaN, too
        held = np.full([2 * n + 1 for n in a.shape], poison, a.dtype)[tuple(slice(1, None, 2) for _ in a.shape)]
    elif layout == "reversed":  # negative strides on every axis
        held = np.empty_like(a)[tuple(slice(None, None, -1) for _ in a.shape)]
    elif layout == "transposed":  # rows and columns swapped
        held = np.empty(a.swapaxes(-1, -2).shape, a.dtype).swapaxes(-1, -2)
    elif layout == "channels last":
        held = np.moveaxis(np.empty(np.moveaxis(a, -3, -1).shape, a.dtype), -1, -3)
    elif layout == "unaligned":  # one byte past an aligned address
        held = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    else:
        held = np.empty_like(a)
    held[...] = a
    held.flags.writeable = layout != "read only"
    return held


LAYOUTS = ("contiguous", "gaps", "reversed", "transposed", "channels last", "unaligned", "read only")


def each_layout(layouts: Sequence[str] = LAYOUTS) -> st.SearchStrategy[tuple[str, str, str]]:
    """Of three operands, each contiguous at least half of the time."""
    return st.tuples(*3 * [st.just("contiguous") | st.sampled_from(layouts)])


@st.composite
def _axis(draw: st.DrawFn, T: int, form: str, at_most: int) -> tuple[int, int, int, int, int, int]:
    """Extent, taps, padding before and after, stride and dilation of one axis, for a transform of T samples."""
    stride = 1 if form == "same" else draw(st.sampled_from((1, 1, 1, 2, 3, 4, T + 1)))
    dilation = draw(st.sampled_from((1, 1, 1, 2, 3)))
    most = (T - 1) // dilation + 1
    taps = draw(st.sampled_from(sorted({1, 2, 3, min(5, most), max(1, most - 1), most} & set(range(1, most + 1)))))
    reach = (taps - 1) * dilation
    pads = [0, 0]
    if form in ("int", "pair"):
        pads = 2 * [draw(st.sampled_from((0, 1, reach // 2, reach, reach + 2)))]
    elif form == "sides":
        pads = [draw(st.sampled_from((0, 1, reach // 2, reach, reach + 3))) for _ in range(2)]
    elif form == "same":
        pads = [reach // 2, reach - reach // 2]
    least = max(1, reach + 1 - sum(pads))
    edges = {1, 2, T - 1, T, T + 1, T - reach, T - reach + 1, 2 * T, 2 * T + 1, 3 * T - 2, least}
    likely = sorted(n for n in edges if least <= n <= at_most) or [least]
    extent = draw(st.sampled_from(likely) | st.integers(least, max(least, min(at_most, 2 * T))))
    return extent, taps, pads[0], pads[1], stride, dilation


@st.composite
def problems(draw: st.DrawFn, dtypes: tuple[str, ...] | None = None, scope: Scope = WHOLE) -> Problem:
    """Any layer that the library accepts, small enough for the definition."""
    dtype = draw(st.sampled_from(scope.dtypes if dtypes is None else dtypes))
    chosen = draw(st.sampled_from(scope.fft_sizes))
    tall, wide = _pair(chosen or 8)
    form = draw(st.sampled_from(("valid", "same", "int", "pair", "sides", "sides")))
    at_most = 10 if chosen is None else 130 if max(tall, wide) >= 64 else scope.longest
    H, R, top, bottom, down, apart = draw(_axis(tall, form, at_most))
    W, S, left, right, across, aside = draw(_axis(wide, form, at_most))
    if form == "int":  # one number serves both axes
        left = right = top = bottom = max(top, left)
    forms: dict[str, Any] = {"valid": "valid", "same": "same", "int": top, "pair": (top, left)}
    padding = forms.get(form, ((top, bottom), (left, right)))
    stride: int | Pair = down if down == across and draw(st.booleans()) else (down, across)
    dilation: int | Pair = apart if apart == aside and draw(st.booleans()) else (apart, aside)

    kind = draw(st.sampled_from(("dense", "dense", "dense", "grouped", "depthwise")))
    groups = 1 if kind == "dense" else draw(st.sampled_from((2, 3, 4, 9) if kind == "depthwise" else (2, 3)))
    channels = {"C": scope.channels if kind != "depthwise" else (1,), "K": scope.channels}
    choices = {"N": (1, scope.batches), "C": (groups, channels["C"]), "K": (groups, channels["K"])}
    counts = {name: unit for name, (unit, _) in choices.items()}
    outputs = max(1, (H + top + bottom) // down) * max(1, (W + left + right) // across)
    for name in draw(st.permutations("NCK")):  # the first has the widest choice, the last what the reference can afford
        unit, numbers = choices[name]
        room = scope.multiplications * groups / (counts["N"] * counts["C"] * counts["K"] * R * S * outputs)
        counts[name] = unit * draw(st.sampled_from([n for n in numbers if n <= max(1, room) and unit * n <= 33]))
    N, C, K = counts.values()
    return Problem(
        N, C, H, W, K, R, S, stride, padding, dilation, groups, dtype,
        fft_size=chosen if chosen is None or draw(st.integers(0, 9)) else _pair(chosen),
        batched=N > 1 or draw(st.booleans()),
        scales=draw(st.sampled_from(((1.0,), (1.0,), (1.0, 100.0), (1e4, 1.0, 1.0)))),
        seed=draw(st.integers(0, 999)),
    )


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


# ---- a whole layer through the doors

SINGLE = 3.0  # a lone sample may lie this many times further out than the root mean square that the tolerance bounds


def check_layer(
    problem: Problem, plan: ConvPlan, layouts: tuple[str, ...], record: Recorder, title: str,
    put: Callable[[np.ndarray, str], Any] = relaid, fetch: Callable[[Any], np.ndarray] = np.asarray,
) -> None:  # fmt: skip
    """The three passes through the public doors, every result written over poison, the inputs left as they were.

    `layouts` are those of x, w, dy and, where there is a fourth, of the results; `put` makes an array of such a layout
    where the plan runs, `fetch` brings one back.
    """
    a, bias = problem.arrays(), problem.bias()
    x, w, dy = lying = Arrays(*(put(b, layout) for b, layout in zip(a, layouts, strict=False)))
    added, result_layout = put(bias, "contiguous"), (*layouts, "contiguous")[3]
    outs = {name: put(poisoned(problem, name), result_layout) for name in PASSES}
    rest = {**problem.options, "plan": plan}
    got = {
        "forward": conv2d(x, w, added, **rest, out=outs["forward"]),
        "input_grad": conv2d_input_grad(problem.x_shape, w, dy, **rest, out=outs["input_grad"]),
        "weight_grad": conv2d_weight_grad(x, problem.w_shape, dy, **rest, out=outs["weight_grad"]),
    }
    want, size = problem.expected(a), problem.sizes(a, plan.fft_size)
    want["forward"] = want["forward"] + bias[:, None, None]
    for name in PASSES:
        assert got[name] is outs[name]
        error = float(np.linalg.norm(fetch(outs[name]) - want[name]))
        least = 1.0 if name == "forward" else 0.0  # the size of the bias
        allowed = SINGLE * problem.tolerance(plan, name) * float(np.linalg.norm(np.maximum(size[name], least)))
        record(f"{name}, {title}", error / allowed, f"T = {plan.fft_size}, {problem}")
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g} with T = {plan.fft_size}"
    for name, before, after in zip(Arrays._fields, a, lying, strict=True):
        assert np.array_equal(before, fetch(after)), f"{name} was changed"
    assert np.array_equal(bias, fetch(added))
