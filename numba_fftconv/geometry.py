"""What a convolution layer is, in integers: ConvGeometry, its axes, and the maps from array samples to tile positions.

Along one axis the layer computes y[p] = sum_r x[p*stride + r*dilation - lo] * w[r]; its kernel ends
`reach` = (taps-1)*dilation samples past its first one. A segment is a tile of T positions, filled from an array by a
PlaneMap; the product of two spectra is a circular convolution of T samples. One segment serves a whole plane where all
that wraps round lands on zeros or is never read (Axis.whole). Else a segment of x makes the outputs at t = 0, stride,
2*stride, ... < T-reach, and a segment of dy makes the T-reach samples of dx from t = reach on (overlap-save).

Worked example: 100 samples, 5 taps, no padding, stride 2, T = 32: reach = 4, outputs = 48, step = 28. The forward pass
reads ceil(48/14) = 4 windows of x that start at 0, 28, 56 and 84, and each writes the 14 outputs of t = 0, 2, ..., 26.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from . import options
from .errors import InvalidShapeError, UnsupportedError
from .integers import Size, ceil_div
from .options import FFT_SIZES, MAX_FFT, Layer, Pair

LARGEST_ARRAY = 2**56  # samples of an array: its bytes, counted from any sample, stay below 2**63


@dataclass(frozen=True)
class PlaneMap:
    """Where the samples of one axis of an array lie in the tiles of its segments.

    Sample i lies at position t of segment g where t + start + g*advance == i*spacing and first <= t < limit; all other
    positions are zero in a load and skipped in a store.
    """

    start: int
    advance: int
    spacing: int
    first: int
    limit: int
    segments: int

    @property
    def numbers(self) -> tuple[int, int, int, int, int]:
        """What a kernel needs to know."""
        return self.start, self.advance, self.spacing, self.first, self.limit

    def end(self, extent: int) -> int:
        """The end of the tile positions that can hold a sample."""
        last = (extent - 1) * self.spacing - self.start
        return min(self.limit, last + 1) if self.segments == 1 else self.limit

    def places(self, segment: int, extent: int) -> tuple[np.ndarray, np.ndarray]:
        """The tile positions and array indices, both int64, of the samples of an axis that lie in this segment."""
        t = np.arange(self.first, self.limit, dtype=np.int64)
        i, rest = np.divmod(t + (self.start + segment * self.advance), self.spacing)
        held = (rest == 0) & (i >= 0) & (i < extent)
        return t[held], i[held]


@dataclass(frozen=True)
class Axis:
    """One axis of a layer: samples, kernel taps, zeros before and after the samples, stride and dilation."""

    extent: int
    taps: int
    lo: int
    hi: int
    stride: int
    dilation: int

    @property
    def reach(self) -> int:
        """Distance from the first sample under the kernel to the last."""
        return (self.taps - 1) * self.dilation

    @property
    def padded(self) -> int:
        """Samples of the input with the zeros around them."""
        return self.lo + self.extent + self.hi

    @property
    def outputs(self) -> int:
        """Samples of the output."""
        return (self.padded - self.reach - 1) // self.stride + 1

    @property
    def span(self) -> int:
        """Samples of the output with the zeros that the stride puts between them."""
        return (self.outputs - 1) * self.stride + 1

    def whole(self, T: int) -> bool:
        """Whether one segment of T positions serves all three passes."""
        return max(self.extent + self.lo, self.span, self.reach + 1, self.span + self.reach - self.lo) <= T

    def step(self, T: int) -> int:
        """Samples that a segment of the forward pass advances; T must exceed the reach."""
        return ceil_div(T - self.reach, self.stride) * self.stride

    def segments(self, T: int, pass_name: str) -> int:
        """Segments of T positions that a pass cuts this axis into; T must exceed the reach."""
        if self.whole(T):
            return 1
        if pass_name == "input_grad":
            return ceil_div(self.extent, T - self.reach)
        return ceil_div(self.span, self.step(T))

    def x(self, T: int) -> PlaneMap:
        """The input, read by forward and weight_grad."""
        return PlaneMap(-self.lo, self._advance(T), 1, 0, T, self.segments(T, "forward"))

    def w(self, T: int) -> PlaneMap:
        """The weight, read by forward and input_grad and written by weight_grad."""
        return PlaneMap(0, 0, self.dilation, 0, T, 1)

    def y(self, T: int) -> PlaneMap:
        """The output, written by forward; its gradient, read without overlap by weight_grad."""
        limit = T if self.whole(T) else T - self.reach
        return PlaneMap(0, self._advance(T), self.stride, 0, limit, self.segments(T, "forward"))

    def dy_halo(self, T: int) -> PlaneMap:
        """The output gradient, read by input_grad in windows that begin `reach` samples early."""
        if self.whole(T):
            return PlaneMap(0, 0, self.stride, 0, T, 1)
        return PlaneMap(self.lo - self.reach, T - self.reach, self.stride, 0, T, self.segments(T, "input_grad"))

    def dx(self, T: int) -> PlaneMap:
        """The input gradient, written by input_grad past the `reach` positions that wrapping spoils."""
        if self.whole(T):
            return PlaneMap(-self.lo, 0, 1, 0, T, 1)
        return PlaneMap(-self.reach, T - self.reach, 1, self.reach, T, self.segments(T, "input_grad"))

    def _advance(self, T: int) -> int:
        return 0 if self.whole(T) else self.step(T)


@dataclass(frozen=True)
class ConvGeometry:
    """A convolution layer: N images of C channels of H x W, K filters of R x S, and how they step over the images.

    ``from_arguments`` makes one from a caller's shapes and options and checks it; the constructor checks nothing.
    """

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    pad_top: int
    pad_bottom: int
    pad_left: int
    pad_right: int
    stride: Pair
    dilation: Pair
    groups: int
    batched: bool = True
    rows: Axis = field(init=False, repr=False, compare=False)  # the axis of H, R and P
    cols: Axis = field(init=False, repr=False, compare=False)  # the axis of W, S and Q
    shapes: dict[str, tuple[int, ...]] = field(init=False, repr=False, compare=False)  # by the caller's names

    def __post_init__(self) -> None:
        """Derive once what every call asks for."""
        (down, across), (tall, wide) = self.stride, self.dilation
        rows = Axis(self.H, self.R, self.pad_top, self.pad_bottom, down, tall)
        cols = Axis(self.W, self.S, self.pad_left, self.pad_right, across, wide)
        batch = (self.N,) if self.batched else ()
        output = (*batch, self.K, rows.outputs, cols.outputs)
        shapes = {
            "input": (*batch, self.C, self.H, self.W),
            "weight": (self.K, self.C // self.groups, self.R, self.S),
            "output": output,
            "grad_output": output,
        }
        for name, value in (("rows", rows), ("cols", cols), ("shapes", shapes)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_arguments(
        cls, input_shape: Iterable[Any], weight_shape: Iterable[Any],
        stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: Any = 1,
    ) -> "ConvGeometry":  # fmt: skip
        """Check the shapes and options of a layer and make its geometry.

        Parameters
        ----------
        input_shape : (N, C, H, W) or (C, H, W), in samples; only N may be 0.
        weight_shape : (K, C/groups, R, S), in samples.
        stride, dilation : int or (rows, columns), in samples, at least 1.
        padding : samples of zeros around the input: int, (rows, columns), ((top, bottom), (left, right)), 'valid' for
            none, or 'same' for an output of the input's size (stride 1; the extra sample goes to the end).
        groups : int that divides both C and K.

        Returns
        -------
        ConvGeometry

        Raises
        ------
        InvalidShapeError : ranks, sizes, channels or groups that do not fit; a kernel larger than the padded input.
        InvalidOptionError : a stride, padding, dilation or groups that no layer can have.
        UnsupportedError : a kernel of more than 256 samples a side after dilation; arrays of more than 2**56 samples.

        Examples
        --------
        >>> ConvGeometry.from_arguments((2, 3, 32, 32), (8, 3, 5, 5), stride=2, padding="valid").output_shape
        (2, 8, 14, 14)

        Source: the conventions of torch.nn.functional.conv2d.
        """
        return of_layer(options.layer(input_shape, weight_shape, stride, padding, dilation, groups))

    @property
    def P(self) -> int:
        """Rows of the output."""
        return self.rows.outputs

    @property
    def Q(self) -> int:
        """Columns of the output."""
        return self.cols.outputs

    @property
    def padding(self) -> tuple[Pair, Pair]:
        """((top, bottom), (left, right))."""
        return (self.pad_top, self.pad_bottom), (self.pad_left, self.pad_right)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(N, C, H, W), or (C, H, W) where the input has no batch axis."""
        return self.shapes["input"]

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(K, C/groups, R, S)."""
        return self.shapes["weight"]

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(N, K, P, Q), or (K, P, Q) where the input has no batch axis."""
        return self.shapes["output"]

    @property
    def layer(self) -> Layer:
        """The same in a caller's words."""
        shapes = self.input_shape, self.weight_shape
        return Layer(*shapes, self.stride, self.padding, self.dilation, self.groups)

    @property
    def pairs(self) -> int:
        """Planes (k, c) of the weight."""
        return self.K * (self.C // self.groups)

    def segments(self, size: Size, pass_name: str) -> Pair:
        """Segments that a pass cuts each plane into: (down, across)."""
        return self.rows.segments(size[0], pass_name), self.cols.segments(size[1], pass_name)

    def windows(self, size: Size, pass_name: str) -> int:
        """(image, segment) pairs of a pass: the letter m."""
        return self.N * prod(self.segments(size, pass_name))

    def maps(self, name: str, size: Size) -> tuple[PlaneMap, PlaneMap]:
        """The maps of that name (passes.py) of both axes."""
        return getattr(self.rows, name)(size[0]), getattr(self.cols, name)(size[1])

    def smallest_fft(self) -> Size:
        """The smallest transform lengths that hold the kernel."""
        rows, columns = (next(T for T in FFT_SIZES if axis.reach < T) for axis in (self.rows, self.cols))
        return rows, columns


# ---- what fits together ----------------------------------------------------------------------------------------------


@lru_cache(1024)
def of_layer(layer: Layer) -> ConvGeometry:
    """The geometry of a layer whose numbers fit together, and whose arrays are not too large."""
    made = fitted(layer)
    for name in ("input", "weight", "output"):
        if prod(made.shapes[name]) > LARGEST_ARRAY:
            said = f"{name} shape is {made.shapes[name]}, which is {prod(made.shapes[name])} samples"
            raise UnsupportedError(f"{said}: the largest array that this version handles has {LARGEST_ARRAY}")
    return made


def fitted(layer: Layer) -> ConvGeometry:
    """The geometry of a layer whose numbers fit together; its sizes may be symbols that stand for integers."""
    images, kernel, stride, ((top, bottom), (left, right)), dilation, groups = layer
    _check_channels(images, kernel, groups)
    batched = len(images) == 4
    N, C, H, W = images if batched else (1, *images)
    K, _, R, S = kernel
    made = ConvGeometry(N, C, H, W, K, R, S, top, bottom, left, right, stride, dilation, groups, batched)
    _check_kernel(made.rows, made.cols)
    return made


def _check_channels(images: tuple[int, ...], kernel: tuple[int, ...], groups: int) -> None:
    C, K, said = images[-3], kernel[0], f"input shape is {images}, weight shape is {kernel} and groups is {groups}"
    for count, what in ((C, "channels of the input"), (K, "filters of the weight")):
        if count % groups:
            raise InvalidShapeError(f"{said}: groups must divide the {count} {what}")
    if kernel[1] != C // groups:
        fitting = (K, C // groups, *kernel[2:])
        raise InvalidShapeError(f"{said}: {C} channels in {groups} group(s) need a weight of shape {fitting}")


def _check_kernel(rows: Axis, cols: Axis) -> None:
    reached, padded = (rows.reach + 1, cols.reach + 1), (rows.padded, cols.padded)
    said = f"the kernel is {rows.taps} x {cols.taps}, {reached[0]} x {reached[1]} after dilation"
    if reached[0] > padded[0] or reached[1] > padded[1]:
        raise InvalidShapeError(f"{said}, and larger than the padded input of {padded[0]} x {padded[1]}: pad more")
    if max(reached) > MAX_FFT:
        raise UnsupportedError(f"{said}: this version handles kernels of at most {MAX_FFT} samples a side")
