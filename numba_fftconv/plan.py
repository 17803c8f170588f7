"""ConvPlan: how the three passes of a layer run. Made once, without arrays and without a GPU; then it runs what fits.

A plan is inert and hashable, compares by what was asked for, and prints itself as its schedule (explain.py). What it
decides is the transform length T, the segments of the planes, and the order of work and the workspace of each pass
(tuning.py).
"""

import operator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from . import arrays, tuning
from .cpu import engine, threads
from .errors import InvalidOptionError, InvalidTypeError, PlanMismatchError, UnsupportedError
from .explain import explain
from .geometry import FFT_SIZES, MAX_FFT, ConvGeometry, PlaneMap
from .passes import FORWARD, INPUT_GRAD, PASSES, WEIGHT_GRAD, Pass

PRECISIONS = {"float32": ("fp32", "tf32x3", "bf16x3", "tf32"), "float64": ("fp64",)}


@dataclass(frozen=True, eq=False)
class SpectralWeight:
    """The spectrum of a weight, transformed once; goes wherever the weight goes, with a plan of the same T and weight.

    Made by `ConvPlan.transform_weight`; its layout is the engine's own.

    Examples
    --------
    >>> import numpy as np
    >>> from numba_fftconv import plan_conv2d
    >>> plan = plan_conv2d((2, 3, 10, 10), (4, 3, 5, 5))
    >>> weight = plan.transform_weight(np.ones((4, 3, 5, 5), np.float32))
    >>> weight.weight_shape, weight.dtype, weight.fft_size == plan.fft_size
    ((4, 3, 5, 5), 'float32', True)
    """

    array: np.ndarray = field(repr=False)
    weight_shape: tuple[int, int, int, int]
    dtype: str
    fft_size: int
    dilation: tuple[int, int]
    groups: int


@dataclass(frozen=True)
class ConvPlan:
    """The three passes of one layer, for arrays of one shape and dtype; made by `plan_conv2d`.

    Attributes
    ----------
    geometry : ConvGeometry
    dtype : 'float32' or 'float64'.
    device : 'cpu', or the GPU architecture that it was made for.
    precision : arithmetic of the multiply stage.
    fft_size : transform length T, in samples.
    workspace_limit : bytes, or None.

    Examples
    --------
    >>> from numba_fftconv import plan_conv2d
    >>> plan = plan_conv2d((2, 3, 100, 40), (4, 3, 5, 5), fft_size=32)
    >>> plan.segments
    {'forward': (4, 2), 'input_grad': (4, 2), 'weight_grad': (4, 2)}
    """

    geometry: ConvGeometry
    dtype: str
    device: str
    precision: str
    fft_size: int
    workspace_limit: int | None
    threads: int = field(repr=False)
    choice: tuning.Choice = field(repr=False)

    @staticmethod
    def build(
        geometry: ConvGeometry,
        dtype: Any = "float32",
        precision: str | None = None,
        fft_size: Any = None,
        workspace_limit: Any = None,
        device: str | None = None,
        passes: tuple[str, ...] = tuple(PASSES),
    ) -> "ConvPlan":
        """Make the plan of a geometry, or find it made; the arguments are those of `plan_conv2d`.

        `passes` names those that the transform length is chosen for; the plan runs the others too.

        Examples
        --------
        >>> geometry = ConvGeometry.from_arguments((1, 1, 8, 8), (1, 1, 3, 3))
        >>> ConvPlan.build(geometry, fft_size=8).fft_size
        8
        """
        name = _dtype(dtype)
        size = None if fft_size is None else _fft_size(fft_size, geometry)
        limit = None if workspace_limit is None else _limit(workspace_limit)
        return _build(geometry, name, _precision(precision, name), size, limit, _device(device), passes)

    @property
    def segments(self) -> dict[str, tuple[int, int]]:
        """By pass, the segments that each plane is cut into: (down, across)."""
        axes = self.geometry.rows, self.geometry.cols
        down, across = ({name: axis.segments(self.fft_size, name) for name in PASSES} for axis in axes)
        return {name: (down[name], across[name]) for name in PASSES}

    @property
    def flops(self) -> dict[str, int]:
        """By pass, additions and multiplications of its transforms and products."""
        return {name: sum(stage.flops for stage in stages) for name, stages in self.stages.items()}

    @property
    def bytes(self) -> dict[str, int]:
        """By pass, bytes that its stages read and write: every array and spectrum once each way."""
        return {name: sum(stage.bytes for stage in stages) for name, stages in self.stages.items()}

    @property
    def stages(self) -> dict[str, list[tuning.Stage]]:
        """By pass, its stages."""
        itemsize = np.dtype(self.dtype).itemsize
        return {name: tuning.stages(self.geometry, itemsize, self.fft_size, row) for name, row in PASSES.items()}

    @property
    def workspace_size(self) -> int:
        """Bytes that `workspace` must have for any pass."""
        return self.choice.workspace

    def explain(self) -> str:
        """Say how the passes run: T, segments, stages with flops, bytes and predicted time, and what was rejected.

        Examples
        --------
        >>> from numba_fftconv import plan_conv2d
        >>> print(plan_conv2d((16, 64, 32, 32), (64, 64, 9, 9)).explain().splitlines()[0])
        input (16, 64, 32, 32), weight (64, 64, 9, 9), output (16, 64, 24, 24), float32 on cpu
        """
        others = tuning.candidates(self.geometry, self.dtype, self.device, self.workspace_limit, self.threads)
        direct = tuning.direct_seconds(self.geometry, self.dtype, self.device, self.threads)
        return explain(self, others, direct)

    def forward(
        self, x: Any, w: Any, bias: Any = None, *, out: Any = None, stream: Any = None, workspace: Any = None
    ) -> Any:
        """Run the forward pass: as `conv2d`, with arrays of the plan's shapes and dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3))
        >>> plan.forward(np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)).shape
        (1, 1, 6, 6)
        """
        return self._run(FORWARD, (x, w), out, stream, workspace, bias)

    def input_grad(self, dy: Any, w: Any, *, out: Any = None, stream: Any = None, workspace: Any = None) -> Any:
        """Run the input gradient: as `conv2d_input_grad`, with arrays of the plan's shapes and dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3))
        >>> plan.input_grad(np.ones((1, 1, 6, 6), np.float32), np.ones((1, 1, 3, 3), np.float32)).shape
        (1, 1, 8, 8)
        """
        return self._run(INPUT_GRAD, (dy, w), out, stream, workspace)

    def weight_grad(self, x: Any, dy: Any, *, out: Any = None, stream: Any = None, workspace: Any = None) -> Any:
        """Run the weight gradient: as `conv2d_weight_grad`, with arrays of the plan's shapes and dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3))
        >>> plan.weight_grad(np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 6, 6), np.float32)).shape
        (1, 1, 3, 3)
        """
        return self._run(WEIGHT_GRAD, (x, dy), out, stream, workspace)

    def backward(
        self,
        dy: Any,
        x: Any,
        w: Any,
        *,
        output_mask: tuple[bool, bool, bool] = (True, True, True),
        stream: Any = None,
        workspace: Any = None,
    ) -> tuple[Any, Any, Any]:
        """Run both gradients and sum that of the bias: as `conv2d_backward`, with arrays of the plan's shapes.

        Examples
        --------
        >>> import numpy as np
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3))
        >>> dy, x, w = (np.ones((1, 1, n, n), np.float32) for n in (6, 8, 3))
        >>> [gradient.shape for gradient in plan.backward(dy, x, w)]
        [(1, 1, 8, 8), (1, 1, 3, 3), (1,)]
        """
        wanted = _mask(output_mask)
        self._check_run(stream)
        dy_read, x_read = self._read("grad_output", dy), self._read("input", x)
        self._space(workspace, 0, {"grad_output": dy_read, "input": x_read, "weight": self._read("weight", w)})
        options = {"stream": stream, "workspace": workspace}
        dx = arrays.like(self.input_grad(dy_read, w, **options), dy) if wanted[0] else None
        dw = arrays.like(self.weight_grad(x_read, dy_read, **options), dy) if wanted[1] else None
        rest = tuple(axis for axis in range(dy_read.ndim) if axis != dy_read.ndim - 3)
        db = arrays.like(dy_read.sum(rest, dtype=np.float64).astype(self.dtype), dy) if wanted[2] else None
        return dx, dw, db

    def transform_weight(self, w: Any) -> SpectralWeight:
        """Transform a weight once, for any number of calls of forward and input_grad.

        Examples
        --------
        >>> import numpy as np
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3))
        >>> x, w = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
        >>> np.array_equal(plan.forward(x, plan.transform_weight(w)), plan.forward(x, w))
        True
        """
        self._check_run(None)
        g, array = self.geometry, self._read("weight", w)
        work = tuning.cpu_work(g, array.itemsize, self.fft_size, FORWARD)
        spectrum = engine.transform_weights(work, self._planes("w", array), self.threads)
        return SpectralWeight(spectrum, g.weight_shape, self.dtype, self.fft_size, g.dilation, g.groups)

    def profile(self, pass_name: str, first: Any, second: Any) -> dict[str, float]:
        """Run a pass once and time its stages: seconds by stage, those of all threads divided by their number.

        `first` and `second` are the operands of the plan's method of that name, in its order.

        Examples
        --------
        >>> import numpy as np
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3))
        >>> list(plan.profile("forward", np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)))
        ['transform x', 'transform w', 'multiply', 'inverse y']
        """
        if pass_name not in PASSES:
            raise InvalidOptionError(f"pass_name is {pass_name!r}: it must be one of {', '.join(PASSES)}")
        run, _ = self._prepare(PASSES[pass_name], (first, second), None, None, None, None)
        times = [0.0] * 4 if run is None else run.profile()
        return {stage.name: time for stage, time in zip(self.stages[pass_name], times, strict=True)}

    # ---- running -----------------------------------------------------------------------------------------------------

    def _run(self, row: Pass, values: tuple[Any, Any], out: Any, stream: Any, workspace: Any, bias: Any = None) -> Any:
        run, result = self._prepare(row, values, out, stream, workspace, bias)
        if run is None:
            result[...] = 0
        else:
            run()
        return arrays.like(result, values[0]) if out is None else out

    def _prepare(
        self, row: Pass, values: tuple[Any, Any], out: Any, stream: Any, workspace: Any, bias: Any
    ) -> tuple[engine.Run | None, np.ndarray]:
        """Check everything, so that a call which raises has changed nothing; then what runs the pass, and its result.

        Nothing runs on an empty batch.
        """
        self._check_run(stream)
        given = {name: self._read(name, value) for name, value in zip(row.operands, values, strict=True)}
        if bias is not None:
            given["bias"] = arrays.operand(bias, "bias", (self.geometry.K,), self.dtype)
        result = arrays.output(out, self._shape(row.result), self.dtype, given)
        choice = self.choice.passes[list(PASSES).index(row.name)]
        assert choice.work is not None and choice.schedule is not None
        space = self._space(workspace, choice.workspace, given | {"out": result})
        if self.geometry.N == 0:
            return None, result
        first, second = (given[name] for name in row.operands)
        weight = second if isinstance(values[1], SpectralWeight) else self._planes(row.maps[1], second)
        operands = self._planes(row.maps[0], first), weight, self._planes(row.maps[2], result)
        return engine.Run.of_pass(choice.work, choice.schedule, *operands, space.view(self.dtype), given.get("bias")), result

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of an operand or result, in the caller's words."""
        g = self.geometry
        shapes = {"input": g.input_shape, "weight": g.weight_shape, "output": g.output_shape}
        return shapes[name.removeprefix("grad_")]

    def _check_run(self, stream: Any) -> None:
        if self.device != "cpu":
            raise UnsupportedError(
                f"this plan is for device {self.device!r}: this version can show it, and runs plans for 'cpu' only"
            )
        if stream is not None:
            raise InvalidOptionError(f"stream is {stream!r}: arrays on a CPU have no stream, leave it None")

    def _read(self, name: str, value: Any) -> np.ndarray:
        """The samples of an operand, or the spectrum of a SpectralWeight; it must be what the plan was made for."""
        g = self.geometry
        if isinstance(value, SpectralWeight) and name == "weight":
            made = {"weight_shape": g.weight_shape, "dtype": self.dtype, "fft_size": self.fft_size}
            made |= {"dilation": g.dilation, "groups": g.groups}
            said = [f"{key} {getattr(value, key)!r} where the plan has {wanted!r}"
                    for key, wanted in made.items() if getattr(value, key) != wanted]  # fmt: skip
            if said:
                raise PlanMismatchError(f"weight is a SpectralWeight of {', '.join(said)}: transform it with this plan")
            return value.array
        array = arrays.host(value, name)
        dtype = arrays.dtype_name(array, name)
        shape = self._shape(name)
        for what, passed, wanted in (("dtype", dtype, self.dtype), ("shape", array.shape, shape)):
            if passed != wanted:
                raise PlanMismatchError(
                    f"{name} has {what} {passed} and the plan was made for {wanted}: make a plan for it"
                )
        return arrays.operand(array, name, shape, dtype)

    def _planes(self, maps: str, array: np.ndarray) -> engine.Operand:
        """An operand in four dimensions with its plane maps."""
        return engine.Operand(array if array.ndim == 4 else array[None], *_maps(self.geometry, maps, self.fft_size))

    def _space(self, workspace: Any, nbytes: int, others: dict[str, np.ndarray]) -> np.ndarray:
        """The caller's workspace, or this thread's own memory, from a cache line on and in whole lines."""
        if workspace is None:
            space = threads.memory(nbytes)
        else:
            arrays.refuse_overlap(arrays.host(workspace, "workspace"), "workspace", others)
            space = arrays.scratch(workspace, self.workspace_size)
        return space[: len(space) // arrays.ALIGNMENT * arrays.ALIGNMENT]


@lru_cache(1024)
def _maps(geometry: ConvGeometry, name: str, T: int) -> tuple[PlaneMap, PlaneMap]:
    """The plane maps of an operand on both axes."""
    return getattr(geometry.rows, name)(T), getattr(geometry.cols, name)(T)


def _dtype(value: Any) -> str:
    """The name of a dtype of NumPy, or of a library whose dtypes print as torch's do."""
    word = value if isinstance(value, str | type | np.dtype) else str(value).rpartition(".")[2]
    try:
        found = arrays.FLOATS.get(np.dtype(word))
    except TypeError:
        found = None
    if found is None:
        raise InvalidTypeError(f"dtype is {value!r}: it must be 'float32' or 'float64'")
    return found


def _precision(value: Any, dtype: str) -> str:
    words = PRECISIONS[dtype]
    if value is not None and value not in words:
        raise InvalidOptionError(f"precision is {value!r}: for {dtype} it must be None or one of {', '.join(words)}")
    return words[0] if value is None else str(value)


def _fft_size(value: Any, geometry: ConvGeometry) -> int:
    """One of FFT_SIZES that holds the kernel."""
    least = geometry.smallest_fft()
    rule = f"an even product of 2, 3, 5, 7 from {least}, which holds this kernel, to {MAX_FFT}"
    said = f"fft_size is {value!r}: it must be {rule}"
    sides = value if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2 or any(isinstance(side, bool) or not hasattr(type(side), "__index__") for side in sides):
        raise InvalidOptionError(f"{said}, as an int or a pair")
    rows, columns = map(operator.index, sides)
    for side in (rows, columns):
        if side not in FFT_SIZES or side < least:
            near = min((T for T in FFT_SIZES if least <= T), key=lambda T: abs(T - side))
            raise InvalidOptionError(f"{said}; the nearest to {side} is {near}")
    if rows != columns:
        raise UnsupportedError(
            f"fft_size is {value!r}: this version has tiles of equal sides, such as {max(rows, columns)}"
        )
    return rows


def _limit(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(type(value), "__index__") or operator.index(value) < 1:
        raise InvalidOptionError(f"workspace_limit is {value!r}: it must be a positive int, in bytes, or None")
    return operator.index(value)


def _device(value: Any) -> str:
    known = f"it must be 'cpu', 'cuda', 'cuda:0' and so on, or, to plan only, one of {', '.join(tuning.GPUS)}"
    if value is None or value == "cpu" or (isinstance(value, str) and value in tuning.GPUS):
        return value or "cpu"
    kind, _, number = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind == "cuda" and (value == "cuda" or number.isdecimal()):
        raise UnsupportedError(
            f"device is {value!r}: this version has no CUDA engine, plan for one of {', '.join(tuning.GPUS)}"
        )
    if value and kind.removeprefix("sm_").isdecimal() and kind.startswith("sm_"):
        raise UnsupportedError(f"device is {value!r}: this version has the figures of {', '.join(tuning.GPUS)}")
    raise InvalidOptionError(f"device is {value!r}: {known}")


def _mask(value: Any) -> tuple[bool, bool, bool]:
    try:
        dx, dw, db = value
    except (TypeError, ValueError):
        raise InvalidOptionError(
            f"output_mask is {value!r}: it must be three bools, for input, weight and bias"
        ) from None
    return bool(dx), bool(dw), bool(db)


@lru_cache(1024)
def _build(
    geometry: ConvGeometry,
    dtype: str,
    precision: str,
    fft_size: int | None,
    limit: int | None,
    device: str,
    passes: tuple[str, ...],
) -> ConvPlan:
    count = threads.thread_count()
    if fft_size is None:
        choice = tuning.candidates(geometry, dtype, device, limit, count, passes)[0]
    else:
        choice = tuning.choose(geometry, dtype, device, fft_size, limit, count)
        if limit is not None and choice.workspace > limit:
            raise tuning.too_small(limit, choice.workspace)
    return ConvPlan(geometry, dtype, device, precision, choice.T, limit, count, choice)


def clear_cache() -> None:
    """Forget the plans that the functions keep, and free the memory that they work in.

    Compiled kernels stay, in memory and on disk.

    Examples
    --------
    >>> from numba_fftconv import clear_cache
    >>> clear_cache()
    """
    _build.cache_clear()
    _maps.cache_clear()
    threads.forget_memory()
