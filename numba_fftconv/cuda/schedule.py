"""How the CUDA engine runs a pass: its steps, where its spectra lie, and chunks of windows. Integers only.

A spectrum is [bin][row][column] complex64, with the pitch from a bin to the next in whole lines of 128 bytes, but for
that of a caller, who has it without gaps. Its rows are windows m, (image, segment) pairs, or the filters of a weight;
its columns are channels. Of a pass, both operands and the result lie in the workspace, one behind the other.

A large transform has memory between its two passes (middle.py), one region behind the spectra for all of them in turn.

Where the workspace shall be small, a pass takes its windows in chunks: the weight is transformed once, forward and
input_grad make a part of their result from each chunk, and weight_grad adds one chunk after the other to one spectrum,
in order, from twice the sum so far, so that a chunk changes no bit. Two planes travel as one complex plane: a chunk has
an even number of windows, so that no pair is parted. Tensor cores sum over eight windows at a time: where they do, a
chunk of weight_grad has a multiple of eight.

Arrays have the caller's names, and their gradients 'dx' and 'dw'.

Example: forward of 16 images, 64 to 64 channels, T = 32: X and Y have 16 rows of 64 columns and W has 64. A pitch is
1024 or 4096 values and a spectrum 514 times that: 4.2 MB for X and Y, 16.8 MB for W.
"""

from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import UnsupportedError
from ..gpus import GRID_LIMIT
from ..integers import Size, bins, ceil_div, round_up
from ..passes import PASSES
from .middle import Region, region_bytes

Given = Set[str]  # operands, of "input" and "weight"
NOTHING: Given = frozenset()
LINE = 16  # complex values: 128 bytes
LINE_BYTES = 8 * LINE
MOST_WINDOWS = 16 * GRID_LIMIT  # of a chunk: rows of a product in the smallest tiles
MOST_PLANES = 2**31  # of a launch: kernels count planes, and values within a bin, in 31 bits


class Spectrum(NamedTuple):
    """Where a spectrum lies: so many bytes into its array."""

    array: str
    at: int
    size: Size
    rows: int
    columns: int
    line: int = LINE  # complex values; a bin begins at a multiple of as many
    held: int = 0  # rows of a bin, where these are some of them

    @property
    def pitch(self) -> int:
        """Complex values from a bin to the next."""
        return round_up((self.held or self.rows) * self.columns, self.line)

    @property
    def nbytes(self) -> int:
        return 8 * self.pitch * bins(self.size)

    @property
    def end(self) -> int:
        return self.at + self.nbytes

    def some(self, rows: int) -> "Spectrum":
        """A spectrum of fewer rows at the same place."""
        return self._replace(rows=rows)

    def part(self, first: int, rows: int) -> "Spectrum":
        """Some rows of this one."""
        return self._replace(at=self.at + 8 * first * self.columns, rows=rows, held=self.rows)


class Transform(NamedTuple):
    """The stage of one operand: windows `first` and following fill the rows of the spectrum."""

    operand: str
    maps: str
    first: int
    spectrum: Spectrum
    middle: Region | None = None  # of a large transform


class Multiply(NamedTuple):
    """The products of all bins and groups, y = a * b of so many windows, or what is added to y."""

    pass_name: str
    a: Spectrum
    b: Spectrum
    y: Spectrum
    windows: int
    Cg: int
    Kg: int
    groups: int
    accumulate: bool = False
    precision: str = "fp32"

    @property
    def extents(self) -> tuple[int, int, int]:
        """Rows, columns and depth of one product."""
        return PASSES[self.pass_name].extents(self.windows, self.Cg, self.Kg)


class Inverse(NamedTuple):
    """The stage of the result: the rows of the spectrum make windows `first` and following."""

    result: str
    maps: str
    first: int
    spectrum: Spectrum
    middle: Region | None = None


Step = Transform | Multiply | Inverse


@dataclass(frozen=True)
class Work:
    """One pass of a layer at one size of tiles as the engine sees it."""

    pass_name: str
    size: Size
    windows: int
    C: int
    K: int
    groups: int
    precision: str = "fp32"

    @property
    def granule(self) -> int:
        """Windows that a chunk has a multiple of: a pair, or a slab of what a product sums over on tensor cores."""
        return 8 if self.precision != "fp32" and self.pass_name == "weight_grad" else 2

    @property
    def Cg(self) -> int:
        """Channels of a group."""
        return self.C // self.groups

    @property
    def of_group(self) -> tuple[int, int, int]:
        """Channels and filters of a group, and how many groups there are."""
        return self.Cg, self.K // self.groups, self.groups

    @property
    def weight(self) -> Spectrum:
        """A whole weight, or its gradient, as an array of its own."""
        return Spectrum("weight", 0, self.size, self.K, self.Cg)

    @property
    def input(self) -> Spectrum:
        """A whole input, as an array of its own."""
        return Spectrum("input", 0, self.size, self.windows, self.C)

    def check(self) -> None:
        """Raise UnsupportedError where two windows, the weight or the groups are more than a kernel can count."""
        for what, planes in (("channels", self.C), ("filters", self.K), ("planes of the weight", self.K * self.Cg)):
            if 2 * planes >= MOST_PLANES:
                raise UnsupportedError(f"{planes:,} {what}: this version runs less than {MOST_PLANES // 2:,} on a GPU")
        if self.groups > GRID_LIMIT and self.Cg > 1:
            said = f"{self.groups:,} groups of {self.Cg:,} channels: on a GPU this version runs at most {GRID_LIMIT:,}"
            raise UnsupportedError(f"{said}, and any number of groups of one channel")


@dataclass(frozen=True)
class Schedule:
    """How a pass runs: so many windows at a time."""

    chunk: int

    def describe(self, work: Work) -> str:
        """In words."""
        if self.chunk >= work.windows:
            return f"all {work.windows:,} windows at a time"
        return f"{self.chunk:,} of {work.windows:,} windows at a time"


def schedules(work: Work) -> Iterator[Schedule]:
    """All windows at once where kernels can count them, then ever smaller chunks."""
    work.check()
    granule = work.granule
    most = min(MOST_WINDOWS, (MOST_PLANES - 1) // max(work.C, work.K)) // granule * granule
    chunk = min(work.windows, max(2, most))
    while True:
        yield Schedule(max(1, chunk))
        if chunk <= granule:
            return
        chunk = round_up(ceil_div(chunk, 2), granule)


def spectrum_of(work: Work, name: str) -> Spectrum:
    """The spectrum of a whole input or weight, as an array of its own; `work` is a forward pass."""
    return work.input if name == "input" else work.weight


def spectrum_bytes(work: Work, name: str) -> int:
    """Bytes that it takes, with what its beginning may lose to alignment."""
    return spectrum_of(work, name).nbytes + LINE_BYTES


def worth_keeping(works: Sequence[Work], schedules: Sequence[Schedule]) -> tuple[str, ...]:
    """Which spectra of a forward pass its gradients may read instead of making their own; of the passes in their order.

    That of the input where it is made at once, and always that of the weight.
    """
    at_once = min(way.chunk for way in (schedules[0], schedules[2])) >= works[0].windows > 0
    return ("input",) * at_once + ("weight",)


def workspace_bytes(work: Work, schedule: Schedule) -> int:
    """Bytes of a workspace, with what its beginning may lose to alignment."""
    return _middle(work, schedule.chunk).end + LINE_BYTES


def _regions(work: Work, chunk: int) -> tuple[Spectrum, Spectrum, Spectrum]:
    """The spectra of the output side, the input side and the weight, one behind the other."""
    outputs = Spectrum("workspace", 0, work.size, chunk, work.K)
    inputs = Spectrum("workspace", outputs.end, work.size, chunk, work.C)
    return outputs, inputs, work.weight._replace(array="workspace", at=inputs.end)


def _through(middle: Region, steps: Iterable[Step]) -> Iterator[Step]:
    """Steps whose large transforms have this memory."""
    for step in steps:
        yield step if isinstance(step, Multiply) else step._replace(middle=middle)


def _middle(work: Work, chunk: int) -> Region:
    """What all large transforms of a pass use in turn."""
    planes = max(chunk * max(work.C, work.K), work.K * work.Cg)
    return Region("workspace", _regions(work, chunk)[-1].end, region_bytes(work.size, planes))


def _chunks(work: Work, schedule: Schedule) -> Iterator[tuple[int, int]]:
    """(first window, windows) of each chunk."""
    for first in range(0, work.windows, schedule.chunk):
        yield first, min(schedule.chunk, work.windows - first)


def steps(work: Work, schedule: Schedule, given: Given = NOTHING) -> Iterator[Step]:
    """The steps of a pass in their order; operands that are `given` are spectra already, the arrays of that name."""
    yield from _through(_middle(work, schedule.chunk), _steps(work, schedule, given))


def _steps(work: Work, schedule: Schedule, given: Given) -> Iterator[Step]:
    if work.pass_name == "weight_grad":
        yield from _weight_grad(work, schedule, given)
        return
    outputs, inputs, weight = _regions(work, schedule.chunk)
    if "weight" in given:
        weight = work.weight
    elif work.windows:
        yield Transform("weight", "w", 0, weight)
    forward = work.pass_name == "forward"
    for first, windows in _chunks(work, schedule):
        x, y = inputs.some(windows), outputs.some(windows)
        if forward and "input" in given:
            x = work.input.part(first, windows)
        else:
            yield Transform("input", "x", first, x) if forward else Transform("grad_output", "dy_halo", first, y)
        a, result = (x, y) if forward else (y, x)
        yield Multiply(work.pass_name, a, weight, result, windows, *work.of_group, precision=work.precision)
        yield Inverse("output", "y", first, y) if forward else Inverse("dx", "dx", first, x)


def _weight_grad(work: Work, schedule: Schedule, given: Given) -> Iterator[Step]:
    """A sum over no windows is a product as well: it stores zeros."""
    outputs, inputs, weight = _regions(work, schedule.chunk)
    for first, windows in _chunks(work, schedule) if work.windows else [(0, 0)]:
        x, dy = inputs.some(windows), outputs.some(windows)
        if "input" in given:
            x = work.input.part(first, windows)
        elif windows:
            yield Transform("input", "x", first, x)
        if windows:
            yield Transform("grad_output", "y", first, dy)
        yield Multiply("weight_grad", dy, x, weight, windows, *work.of_group, first > 0, work.precision)
    yield Inverse("dw", "w", 0, weight)


def shares_gradients(weight_grad: Work, whole: bool, schedules: tuple[Schedule, Schedule]) -> bool:
    """Whether both gradients may come from one spectrum of dy: one segment a plane, all windows at once."""
    return whole and 0 < weight_grad.windows <= min(schedule.chunk for schedule in schedules)


def both_gradients(work: Work, given: Given = NOTHING) -> Iterator[Step]:
    """Both gradients from one spectrum of dy, in the workspace of one: x takes the place of dx, dw that of w."""
    yield from _through(_middle(work, work.windows), _both_gradients(work, given))


def _both_gradients(work: Work, given: Given) -> Iterator[Step]:
    dy, x, weight = _regions(work, work.windows)
    w = work.weight if "weight" in given else weight
    if w is weight:
        yield Transform("weight", "w", 0, weight)
    yield Transform("grad_output", "y", 0, dy)
    yield Multiply("input_grad", dy, w, x, work.windows, *work.of_group, precision=work.precision)
    yield Inverse("dx", "dx", 0, x)
    if "input" in given:
        x = work.input
    else:
        yield Transform("input", "x", 0, x)
    yield Multiply("weight_grad", dy, x, weight, work.windows, *work.of_group, precision=work.precision)
    yield Inverse("dw", "w", 0, weight)
