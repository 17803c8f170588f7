"""ConvPlan: how the three passes of a layer run. Made once, without arrays and without a GPU; then it runs what fits.

A plan is inert and hashable, compares by what was asked for, and prints itself as its schedule (explain.py). What it
decides is the transform lengths, the segments of the planes, and the order of work and the workspace of each pass
(tuning.py). Its methods check their arrays against the plan, the doors (api.py) check theirs against each other; both
then call `run` or `run_backward`, which check the rest, all of it before anything is written.
"""

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from . import arrays, autotune, dtypes, options, passes, tuning
from .cpu import call as cpu_call
from .cpu import threads
from .cuda.kernels import MODELS, Kernels
from .errors import InvalidOptionError, InvalidTypeError, PlanMismatchError, UnsupportedError, WorkspaceError
from .explain import explain
from .geometry import ConvGeometry, PlaneMap, of_layer
from .integers import Size
from .passes import FORWARD, INPUT_GRAD, PASSES, WEIGHT_GRAD, Pass
from .spectral import Spectral, SpectralInput, SpectralWeight

Operands = Mapping[str, np.ndarray | Spectral]  # by the caller's names, each of the shape and dtype of the plan


@dataclass(frozen=True)
class ConvPlan:
    """The three passes of one layer, for arrays of one shape and dtype; made by `plan_conv2d`.

    Attributes
    ----------
    geometry : ConvGeometry
    dtype : of the arrays: 'float16', 'bfloat16', 'float32' or 'float64'.
    device : 'cpu', 'cuda:0' or another GPU of this machine; or the GPU architecture that it can be read for.
    precision : arithmetic of the multiply stage.
    fft_size : transform lengths (rows, columns), in samples.
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
    fft_size: Size
    workspace_limit: int | None
    target: str = field(repr=False)  # whose figures priced it: 'cpu' or an architecture
    threads: int = field(repr=False)
    choice: tuning.Choice = field(repr=False, compare=False)
    kernels: Kernels = field(repr=False)  # on a GPU, where they are not left to the models
    maps: dict[str, tuple[PlaneMap, PlaneMap]] = field(init=False, repr=False, compare=False)
    programs: dict[Any, Any] = field(init=False, repr=False, compare=False, default_factory=dict)  # of the CUDA engine
    repeats: dict[str, Any] = field(init=False, repr=False, compare=False, default_factory=dict)  # the same

    def __post_init__(self) -> None:
        names = {name for row in PASSES.values() for name in row.maps}
        object.__setattr__(self, "maps", {name: self.geometry.maps(name, self.fft_size) for name in names})

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process binds programs of its own."""
        return {**self.__dict__, "programs": {}, "repeats": {}}

    @staticmethod
    def build(
        geometry: ConvGeometry, dtype: Any = "float32", precision: str | None = None,
        fft_size: Any = None, workspace_limit: Any = None, device: str | None = None, tuned: Any = None,
    ) -> "ConvPlan":  # fmt: skip
        """Make the plan of a geometry, or find it made; the arguments are those of `plan_conv2d`.

        Examples
        --------
        >>> geometry = ConvGeometry.from_arguments((1, 1, 8, 8), (1, 1, 3, 3))
        >>> ConvPlan.build(geometry, fft_size=8).fft_size
        (8, 8)
        """
        name = options.dtype(dtype)
        mode = options.precision(precision, name)
        size = None if fft_size is None else options.fft_size(fft_size, geometry.smallest_fft())
        limit = None if workspace_limit is None else options.workspace_limit(workspace_limit)
        where = options.device(device, tuning.GPUS)
        if where != "cpu":
            options.on_gpu(name)
        made_for, path = _target(where), autotune.chosen_path(tuned)
        if path is not None and made_for[0].startswith("cuda"):
            winner = autotune.stored(path, _gpu(made_for[0]), geometry, name, mode)
            if winner is not None and size in (None, winner.size):
                with contextlib.suppress(WorkspaceError):  # of a limit that the winner does not keep to
                    return _build(geometry, name, mode, winner.size, limit, *made_for, winner.kernels)
        return _build(geometry, name, mode, size, limit, *made_for)

    @property
    def segments(self) -> dict[str, tuple[int, int]]:
        """By pass, the segments that each plane is cut into: (down, across)."""
        return {name: self.geometry.segments(self.fft_size, name) for name in PASSES}

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
        return {name: tuning.stages(self.geometry, self.dtype, self.fft_size, row) for name, row in PASSES.items()}

    @property
    def real(self) -> str:
        """The dtype that the plan computes in, of half its spectra: 'float32' where arrays are of two bytes."""
        return dtypes.computed(self.dtype)

    @property
    def workspace_size(self) -> int:
        """Bytes that `workspace` must have for any pass."""
        return self.choice.workspace

    @property
    def spectrum_size(self) -> dict[str, int]:
        """By operand, bytes that the `out` of `transform_input` and `transform_weight` must have."""
        choice, threads, device = self.choice, self.threads, self.device
        return {name: tuning.operand_bytes(choice, name, threads, device) for name in FORWARD.operands}

    @property
    def shares_dy(self) -> bool:
        """Whether `backward` transforms dy once for both gradients."""
        return tuning.shares_dy(self.choice, self.maps["y"] == self.maps["dy_halo"], self.device)

    def kept(self, save: str, save_limit: int | None = None) -> tuple[str, ...]:
        """Say which spectra of a forward pass its gradients should find kept: "input", "weight", both or none.

        Parameters
        ----------
        save : what may be kept: 'none', 'input', 'weight' or 'all'. What would not save time is not: on a CPU that is a
            spectrum which fits into one core's cache, or which the gradient takes in another form.
        save_limit : bytes that the spectra may take, or None; first comes what saves most for its size.

        Returns
        -------
        tuple of str

        Raises
        ------
        InvalidOptionError

        Examples
        --------
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((2, 3, 32, 32), (4, 3, 9, 9), device="sm_90")
        >>> plan.kept("all"), plan.kept("all", save_limit=100_000)
        (('input', 'weight'), ('weight',))

        Source: Mathieu, Henaff, LeCun, arXiv 1312.5851, section 3.
        """
        allowed, limit = options.save(save), options.save_limit(save_limit)
        return tuning.kept(self.choice, allowed, limit, self.threads, self.device) if allowed else ()

    def explain(self) -> str:
        """Say how the passes run: segments, stages with flops, bytes and predicted time, and which sizes were rejected.

        Examples
        --------
        >>> from numba_fftconv import plan_conv2d
        >>> print(plan_conv2d((16, 64, 32, 32), (64, 64, 9, 9)).explain().splitlines()[0])
        input (16, 64, 32, 32), weight (64, 64, 9, 9), output (16, 64, 24, 24), float32 on cpu
        """
        return explain(self)

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
        return self._again_or_run(FORWARD, {"input": x, "weight": w, "bias": bias}, out, stream, workspace)

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
        return self._again_or_run(INPUT_GRAD, {"grad_output": dy, "weight": w}, out, stream, workspace)

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
        return self._again_or_run(WEIGHT_GRAD, {"input": x, "grad_output": dy}, out, stream, workspace)

    def backward(
        self, dy: Any, x: Any, w: Any, *, output_mask: tuple[bool, bool, bool] = (True, True, True),
        stream: Any = None, workspace: Any = None,
    ) -> tuple[Any, Any, Any]:  # fmt: skip
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
        read = self._read({"grad_output": dy, "input": x, "weight": w})
        dx, dw, db = self.run_backward(read, output_mask, stream, workspace)
        return arrays.like(dx, dy), arrays.like(dw, dy), arrays.like(db, dy)

    def transform_input(self, x: Any, *, out: Any = None, stream: Any = None) -> SpectralInput:
        """Transform an input once, for forward, weight_grad and backward; `out` is as in `transform_weight`.

        Examples
        --------
        A training step that transforms each array once, if the engine shares them all (`kept`, `shares_dy`):

        >>> import numpy as np
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3))
        >>> x, w = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
        >>> X, W = plan.transform_input(x), plan.transform_weight(w)
        >>> y = plan.forward(X, W)
        >>> dx, dw, db = plan.backward(y, X, W)
        >>> np.array_equal(y, plan.forward(x, w)), np.array_equal(dw, plan.weight_grad(x, y))
        (True, True)
        """
        planes, spectrum = self._transformed("input", x, out, stream)
        return SpectralInput(spectrum, self.dtype, self.fft_size, self.device, self.geometry, x, planes)

    def transform_weight(self, w: Any, *, out: Any = None, stream: Any = None) -> SpectralWeight:
        """Transform a weight once, for any number of calls of forward and input_grad.

        `out`, where it is given, is a contiguous array of `spectrum_size["weight"]` bytes that the spectrum lies in.

        Examples
        --------
        >>> import numpy as np
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3))
        >>> x, w = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
        >>> np.array_equal(plan.forward(x, plan.transform_weight(w)), plan.forward(x, w))
        True
        """
        return self._weight_of(self._transformed("weight", w, out, stream)[1])

    def read_spectrum(self, name: str, spectrum: Any, planes: Any = None) -> Spectral:
        """Take the `out` of an earlier `transform_input` or `transform_weight` for what that call returned.

        `name` is 'input' or 'weight'; with an input come its planes. What lies in the array is not checked.

        Examples
        --------
        >>> import numpy as np
        >>> from numba_fftconv import plan_conv2d
        >>> plan = plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3))
        >>> x, w = np.ones((1, 1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
        >>> space = np.empty(plan.spectrum_size["weight"], "uint8")
        >>> y = plan.forward(x, plan.transform_weight(w, out=space))
        >>> np.array_equal(y, plan.forward(x, plan.read_spectrum("weight", space)))
        True
        """
        if name not in FORWARD.operands:
            raise InvalidOptionError(f"name is {name!r}: it must be one of {', '.join(FORWARD.operands)}")
        array = arrays.view(spectrum, "spectrum")
        call, size = self._call({"spectrum": array}, None), self.spectrum_size[name]
        space = arrays.scratch(spectrum, size, {}, call.alignment, "spectrum", f'spectrum_size["{name}"]')
        if name == "weight":
            return self._weight_of(call.spectrum(name, space))
        made = call.spectrum(name, space), self.dtype, self.fft_size, self.device, self.geometry, planes
        return SpectralInput(*made, self._fitting(planes, "input"))

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
        row = passes.named(pass_name)
        read = self._read(dict(zip(row.operands, (first, second), strict=True)))
        call = self._call(read, None)
        result = arrays.output(None, self.geometry.shapes[row.result], self.dtype, {}, call.empty)
        space = self._space(call, None, self.choice.by_pass[pass_name].workspace, {})
        times = [0.0] * 4 if self.geometry.N == 0 else call.profile(row, read, result, space)
        return {stage.name: time for stage, time in zip(self.stages[pass_name], times, strict=True)}

    def tune(self, *, keep_fft_size: bool = False, store: Any = True) -> "ConvPlan":
        """Time what may run fastest on this plan's GPU, and keep the winner: a plan of the same layer and precision.

        Sizes of transforms, planes of a block and tiles of products are tried in turn on arrays of its own, the best by
        the models; kernels that are new compile first, some seconds each. Results have the same bits whatever wins, but
        for those of another fft_size, which are rounded otherwise.

        Parameters
        ----------
        keep_fft_size : whether transforms keep the lengths of this plan, and results their bits.
        store : True for the tuning file of this user, the path of another, or None: plans made with
            `plan_conv2d(..., tuning=...)` take their choices from there.

        Returns
        -------
        ConvPlan

        Raises
        ------
        UnsupportedError : the plan is not of a GPU of this machine.
        InvalidOptionError

        Examples
        --------
        >>> from numba_fftconv import plan_conv2d
        >>> plan_conv2d((1, 1, 8, 8), (1, 1, 3, 3), device="sm_90").tune()
        Traceback (most recent call last):
        ...
        numba_fftconv.errors.UnsupportedError: this plan is for device 'sm_90': tune one for 'cuda', a GPU

        Source: the measuring planner of FFTW.
        """
        path = autotune.chosen_path(store)
        if not self.device.startswith("cuda"):
            raise UnsupportedError(f"this plan is for device {self.device!r}: tune one for 'cuda', a GPU")
        limit, made_for = self.workspace_limit, (self.device, self.target)

        def planned(size: Size, kernels: Kernels) -> "ConvPlan":
            return _build(self.geometry, self.dtype, self.precision, size, limit, *made_for, kernels)

        device = _gpu(self.device)
        winner, seconds = autotune.tune(self, planned, device, bool(keep_fft_size))
        if path is not None:
            autotune.store(path, device.name, autotune.key(self.geometry, self.dtype, self.precision), winner, seconds)
        return planned(*winner)

    def _transformed(self, name: str, planes: Any, out: Any, stream: Any) -> tuple[np.ndarray, np.ndarray]:
        """An input or a weight as it is read, and its spectrum."""
        if isinstance(planes, Spectral) and planes.name == name:
            said = f"{name} is a {type(planes).__name__}"
            raise InvalidTypeError(f"{said}: it is transformed already, pass the array or use it")
        read = self._read({name: planes})
        array, size = read[name], self.spectrum_size[name]
        assert isinstance(array, np.ndarray)
        call = self._call(read, stream)
        if out is not None:
            space = arrays.scratch(out, size, read, call.alignment, "out", f'spectrum_size["{name}"]')
        else:
            try:
                space = arrays.from_boundary(call.empty((size,), "uint8"), call.alignment)
            except (MemoryError, ValueError) as error:  # more than there is, or than NumPy counts
                raise arrays.no_memory(f"the spectrum of this {name}", size) from error
        return array, call.transform(name, array, space)

    def _weight_of(self, spectrum: np.ndarray) -> SpectralWeight:
        g = self.geometry
        return SpectralWeight(spectrum, self.dtype, self.fft_size, self.device, g.weight_shape, g.dilation, g.groups)

    # ---- running: what the doors call too ----------------------------------------------------------------------------

    def _again_or_run(self, row: Pass, given: dict[str, Any], out: Any, stream: Any, workspace: Any) -> Any:
        """Run a pass on a caller's operands: as a call like it went before, or with every check."""
        if repeats := self.repeats.get("calls"):  # of a GPU alone
            result = repeats.run(row.name, given.values(), out, stream, workspace)
            if result is not None:
                return result
        read = self._read({name: given[name] for name in row.operands})
        if given.get("bias") is not None:
            read["bias"] = arrays.fitting(given["bias"], "bias", (self.geometry.K,), self.dtype)
        result = self.run(row, read, out, stream, workspace, given)
        if out is not None:
            return out
        first = next(iter(given.values()))
        return arrays.like(result, first.owner if isinstance(first, SpectralInput) else first)

    def run(
        self, row: Pass, read: Operands, out: Any, stream: Any, workspace: Any, given: dict[str, Any] | None = None
    ) -> np.ndarray:
        """Run a pass on operands, and for the forward pass a bias, into `out` or a new array.

        given : the operands as a caller of the plan gave them, whose next call may be like this one.
        """
        call = self._call(read, stream)
        memory = self._memory(read)
        result = arrays.output(out, self.geometry.shapes[row.result], self.dtype, memory, call.empty)
        memory["out"] = result
        space = self._space(call, workspace, self.choice.by_pass[row.name].workspace, memory)
        ready = call.run(row, read, result, space)
        if given is not None and self.device != "cpu":
            call.keep(row, given, out, workspace, ready)
        return result

    def run_backward(
        self, read: Operands, output_mask: Any, stream: Any, workspace: Any
    ) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
        """Run the gradients that are wanted; `read` holds all three operands, wanted or not."""
        wanted = options.output_mask(output_mask)
        call = self._call(read, stream)
        rows = [row for row, is_wanted in zip((INPUT_GRAD, WEIGHT_GRAD), wanted, strict=False) if is_wanted]
        most = max((self.choice.by_pass[row.name].workspace for row in rows), default=0)
        space = self._space(call, workspace, most, self._memory(read))
        shapes, empty = self.geometry.shapes, call.empty
        made = {row.result: arrays.output(None, shapes[row.result], self.dtype, {}, empty) for row in rows}
        call.run_gradients(rows, read, made, space)
        db = call.bias_grad(read["grad_output"]) if wanted[2] else None
        return made.get("input"), made.get("weight"), db

    def _call(self, read: Operands, stream: Any) -> Any:
        """A call of this plan on arrays of its device."""
        device = next(iter(read.values())).device
        if device != self.device:
            where = "in host memory, device 'cpu'" if device == "cpu" else f"on device {device!r}"
            said = f"this plan is for device {self.device!r}, and the arrays are {where}"
            raise PlanMismatchError(f"{said}: make a plan for {device!r}")
        if device == "cpu":
            return cpu_call.Call(self, read, stream)
        from .cuda import call as cuda_call

        return cuda_call.Call(self, read, stream)

    def _read(self, given: Mapping[str, Any]) -> dict[str, np.ndarray | Spectral]:
        """Operands in the caller's words, each as the plan was made for it."""
        read = {
            name: value if isinstance(value, Spectral) and value.name == name else self._fitting(value, name)
            for name, value in given.items()
        }
        arrays.check_devices(read)
        return read

    def _fitting(self, value: Any, name: str) -> np.ndarray:
        array = arrays.view(value, name)
        dtype, shape = arrays.dtype_name(array, name), self.geometry.shapes[name]
        for what, passed, wanted in (("dtype", dtype, self.dtype), ("shape", array.shape, shape)):
            if passed != wanted:
                said = f"{name} has {what} {passed} and the plan was made for {wanted}"
                raise PlanMismatchError(f"{said}: make a plan for it")
        return array

    def _memory(self, read: Operands) -> dict[str, np.ndarray]:
        """What the operands lie in; a spectrum must be of this plan's transform lengths and weight or layer."""
        memory, g = {}, self.geometry
        for name, value in read.items():
            if isinstance(value, Spectral):
                made: dict[str, Any] = {"geometry": g}
                if name == "weight":
                    made = {"weight_shape": g.weight_shape, "dilation": g.dilation, "groups": g.groups}
                value.require("the plan", dtype=self.dtype, fft_size=self.fft_size, device=self.device, **made)
                if isinstance(value, SpectralInput):
                    memory["planes of the input"] = value.planes
                value = value.array
            memory[name] = value
        return memory

    def _space(self, call: Any, workspace: Any, nbytes: int, others: Mapping[str, np.ndarray]) -> np.ndarray:
        """The caller's workspace, or memory of the call's own, from a line on and in whole lines."""
        if workspace is not None:
            return arrays.scratch(workspace, self.workspace_size, others, call.alignment)
        try:
            space = call.workspace(nbytes)
        except (MemoryError, ValueError) as error:  # more than there is, or than NumPy counts
            raise arrays.no_memory("the workspace", nbytes) from error
        return arrays.from_boundary(space, call.alignment)


def _target(device: str) -> tuple[str, str]:
    """The device that a word names, and whose figures price a plan for it: 'cpu' or an architecture."""
    if not device.startswith("cuda"):
        return device, device
    from .cuda import call as cuda_call

    index, architecture = cuda_call.find(device)
    return f"cuda:{index}", tuning.figures(architecture)


def _gpu(device: str) -> Any:
    """What the driver says of the device 'cuda:1'."""
    from .cuda import call as cuda_call

    return cuda_call.device(int(device.partition(":")[2]))


@lru_cache(1024)
def _build(
    geometry: ConvGeometry, dtype: str, precision: str, fft_size: Size | None, limit: int | None,
    device: str, target: str, kernels: Kernels = MODELS,
) -> ConvPlan:  # fmt: skip
    count = threads.thread_count()
    if fft_size is None:
        choice = tuning.candidates(geometry, dtype, target, limit, count, precision)[0]
    else:
        choice = tuning.choose(geometry, dtype, target, fft_size, limit, count, precision)
        if limit is not None and choice.workspace > limit:
            raise tuning.too_small(limit, choice.workspace)
    return ConvPlan(geometry, dtype, device, precision, choice.size, limit, target, count, choice, kernels)


def clear_cache() -> None:
    """Forget the plans that the functions keep, and free the memory that they work in.

    The memory of this thread is freed now, that of other threads at their next call. Compiled kernels stay, in memory
    and on disk.

    Examples
    --------
    >>> from numba_fftconv import clear_cache
    >>> clear_cache()
    """
    _build.cache_clear()
    of_layer.cache_clear()
    threads.forget_memory()
    for name in ("arrays", "stages"):
        if of_gpu := sys.modules.get(f"numba_fftconv.cuda.{name}"):
            of_gpu.forget()
    if operator := sys.modules.get("numba_fftconv.torch.operator"):
        operator.plan_of.cache_clear()
