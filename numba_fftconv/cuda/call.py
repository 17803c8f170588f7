"""One call of a plan on arrays in CUDA memory: its stream, memory for it, and the passes as programs of the engine."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import check_aligned
from ..errors import UnsupportedError
from ..passes import FORWARD, Pass
from ..spectral import Spectral, SpectralInput
from . import arrays, driver, engine, schedule, sums
from .arrays import DeviceArray
from .driver import At
from .engine import Lie, Program
from .middle import Region, region_bytes
from .repeat import Repeats
from .schedule import LINE_BYTES, Step
from .toolchain import SIMULATED

Operands = Mapping[str, Any]  # DeviceArrays and spectra by name
Ready = tuple[Program, dict[str, Any]]  # and its arrays by name
RESULTS = {"output": "output", "input": "dx", "weight": "dw"}  # what the engine calls the result of a pass

# What Numba's simulator stands in for: tiles of few planes keep its lanes busy.
SIMULATED_DEVICE = driver.Device(0, "Numba's CUDA simulator", (9, 0), 4, 1024)


def device(index: int) -> driver.Device:
    return SIMULATED_DEVICE if SIMULATED else driver.device(index)


def find(word: str) -> tuple[int, tuple[int, int]]:
    """Number and architecture of the device 'cuda', which is the current one, or 'cuda:1'."""
    number = word.partition(":")[2]
    index = int(number) if number else 0 if SIMULATED else driver.current()
    return index, device(index).architecture


def unfilled(shape: tuple[int, ...], dtype: str, word: str) -> Any:
    """An array of any content on a device that a plan names."""
    if SIMULATED:
        raise UnsupportedError("Numba's simulator takes Python's time, not a GPU's: tune a plan on a GPU")
    index = int(word.partition(":")[2])
    library = arrays.TORCH if dtype == "bfloat16" and "torch" in sys.modules else arrays.NUMBA
    return library.empty(shape, dtype, index, library.stream(index))


def launch(program: Program, named: Mapping[str, DeviceArray], stream: int) -> None:
    """Queue a program on a stream, after whatever fills its arrays."""
    foreign = [array for array in named.values() if array.is_awaited]
    arrays.begin(foreign, stream)
    program.run(named, stream)
    arrays.end(foreign, stream)


def _planes(value: Any) -> DeviceArray:
    """An operand, or what stands for it: the input of a spectrum, or the spectrum of a weight."""
    if isinstance(value, Spectral):
        value = value.planes if isinstance(value, SpectralInput) else value.array
    assert isinstance(value, DeviceArray)
    return value


class Call:
    """A plan, and the arrays of one call of it; the plan has checked them."""

    alignment = LINE_BYTES

    def __init__(self, plan: Any, read: Operands, stream: Any) -> None:
        self.plan = plan
        self.first = next(_planes(value) for value in read.values())
        self.device = device(self.first.index)
        self.stream = arrays.stream_of(stream, self.first)
        for name, value in read.items():
            if isinstance(value, DeviceArray):
                check_aligned(value, name)

    def empty(self, shape: tuple[int, ...], dtype: str) -> DeviceArray:
        """An array of the library of the call."""
        return arrays.empty(shape, dtype, self.first, self.stream)

    def workspace(self, nbytes: int) -> DeviceArray:
        """Bytes to work in."""
        return arrays.workspace(nbytes, self.first, self.stream)

    # ---- what the plan asks for --------------------------------------------------------------------------------------

    def run(self, row: Pass, read: Operands, result: DeviceArray, space: DeviceArray) -> list[Ready]:
        """A pass; the programs that it was."""
        ready = self._pass(row, read, result, space)
        self._launch(ready)
        return ready

    def keep(self, row: Pass, given: Mapping[str, Any], out: Any, workspace: Any, ready: Sequence[Ready]) -> None:
        """Let a call like this one go the short way from now on; `given` are the caller's operands."""
        if SIMULATED or len(ready) > 1:
            return
        (program, named), nbytes = ready[0], self.plan.choice.by_pass[row.name].workspace
        repeats = self.plan.repeats.setdefault("calls", Repeats())
        made = RESULTS[row.result], self.first.library, self.plan.dtype, nbytes
        repeats.keep(row.name, given, out, workspace, program, named, *made)

    def run_gradients(
        self, rows: Sequence[Pass], read: Operands, results: Mapping[str, DeviceArray], space: DeviceArray
    ) -> None:
        """Both from one spectrum of dy where one segment and one chunk hold it; else one after the other."""
        if len(rows) < 2 or not self.plan.shares_dy:
            self._launch([ready for row in rows for ready in self._pass(row, read, results[row.result], space)])
            return
        named, given, _ = self._named(read)
        named.update({RESULTS[name]: result for name, result in results.items()})
        work = self.plan.choice.by_pass["input_grad"].work
        program = self._program("both", named, lambda: schedule.both_gradients(work, given))
        launch(program, {**named, "workspace": space}, self.stream)

    def bias_grad(self, dy: DeviceArray) -> DeviceArray:
        """The sum of each filter's plane over all images."""
        program, named = self._sums(dy, Lie.of(dy))
        launch(program, named, self.stream)
        return named["sums"]

    def transform(self, name: str, planes: DeviceArray, space: DeviceArray) -> DeviceArray:
        """The spectrum of an input or a weight, at the beginning of some bytes."""
        of_operand = schedule.spectrum_of(self.plan.choice.by_pass["forward"].work, name)
        named = {name: planes, "spectrum": self.spectrum(name, space)}
        nbytes = region_bytes(of_operand.size, of_operand.rows * of_operand.columns)
        if nbytes:
            named["workspace"] = self.workspace(nbytes)
        maps = FORWARD.maps[FORWARD.operands.index(name)]
        step = schedule.Transform(name, maps, 0, of_operand._replace(array="spectrum"), Region("workspace", 0, nbytes))
        if of_operand.rows:
            launch(self._program(f"transform {name}", named, lambda: [step]), named, self.stream)
        return named["spectrum"]

    def spectrum(self, name: str, space: DeviceArray) -> DeviceArray:
        """What of the bytes that `transform` has filled is the spectrum."""
        nbytes = schedule.spectrum_of(self.plan.choice.by_pass["forward"].work, name).nbytes
        part: Any = space[:nbytes].view(np.complex64)
        return part

    def profile(self, row: Pass, read: Operands, result: DeviceArray, space: DeviceArray) -> list[float]:
        """Seconds of each stage on the device, in a second run."""
        ready = self._pass(row, read, result, space)
        self._launch(ready)
        program, named = ready[-1]
        seconds = program.profile(named, self.stream)
        return [seconds.get(stage, 0.0) for stage in (*row.operands, "multiply", "inverse")]

    # ---- programs ----------------------------------------------------------------------------------------------------

    def _pass(self, row: Pass, read: Operands, result: DeviceArray, space: DeviceArray) -> list[Ready]:
        """The programs of a pass in their order."""
        choice, (named, given, before) = self.plan.choice.by_pass[row.name], self._named(read)
        named[RESULTS[row.result]] = result
        program = self._program(row.name, named, lambda: schedule.steps(choice.work, choice.schedule, given))
        named["workspace"] = space
        return [*before, (program, named)]

    def _named(self, read: Operands) -> tuple[dict[str, Any], frozenset[str], list[Ready]]:
        """The operands by name, which of them are spectra, and what makes a bias without gaps."""
        given = {name: value for name, value in read.items() if isinstance(value, Spectral)}
        named, bias = {**read, **{name: value.array for name, value in given.items()}}, read.get("bias")
        before: list[Ready] = []
        if isinstance(bias, DeviceArray) and bias.strides != (bias.itemsize,):
            apart = Lie((1, bias.size, 1, 1), (0, bias.strides[0] // bias.itemsize, 0, 0), self.plan.dtype)
            before = [self._sums(bias, apart)]
            named["bias"] = before[0][1]["sums"]
        return named, frozenset(given), before

    def _sums(self, planes: DeviceArray, lie: Lie) -> Ready:
        """What makes the sum of each channel; of planes of one sample a copy."""
        (images, channels, height, width), samples = lie.shape, lie.samples
        named = {"planes": planes, "sums": self.empty((channels,), self.plan.dtype)}
        extents = sums.Extents(images, height, width, *lie.strides)
        summing = engine.Call("sums", sums.sum_kernel(samples), (channels, 1, 1), (At("planes"), At("sums"), extents))
        return self._kept(("sums", lie, self.device), lambda: [summing]), named

    def _program(self, what: str, named: Mapping[str, DeviceArray], steps: Callable[[], Iterable[Step]]) -> Program:
        """The program of the plan for arrays with these strides."""
        strides = tuple([(name, array.strides) for name, array in named.items()])

        def calls() -> Iterable[engine.Call]:
            lies = {name: Lie.of(array) for name, array in named.items() if array.ndim > 2}
            return engine.calls(steps(), self.plan.maps, lies, "bias" in named, self.device, self.plan.kernels)

        return self._kept((what, strides, self.device), calls)

    def _kept(self, key: Any, calls: Callable[[], Iterable[engine.Call]]) -> Program:
        programs: dict[Any, Program] = self.plan.programs
        if key not in programs:
            programs[key] = Program(calls(), self.device)
        return programs[key]

    def _launch(self, programs: Iterable[Ready]) -> None:
        """Queue programs that are all bound: whatever cannot be launched was found before the first one is."""
        for program, named in programs:
            launch(program, named, self.stream)
