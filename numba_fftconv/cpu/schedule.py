"""How the CPU engine cuts a pass into tasks, and what it keeps in memory: integers only.

A rectangle of the output of forward or input_grad, some lane blocks of images by one piece of the channels, needs the
spectra of those images and those weights. Two orders of work:

    by_outputs   all images are transformed first; a task takes one piece of the channels, transforms its weights, and
                 makes its rectangles one by one: weights and result stay in one core's cache (many channels). Where
                 threads outnumber the pieces, weights are transformed first, too: then each rectangle is a task, and
                 pieces may be narrower than a vector
    by_images    all weights are transformed first; a task takes some lane blocks of images, transforms them, and makes
                 its rectangles: images and result stay in one core's cache (few channels, large planes, depthwise)

weight_grad has two ways. `exchanged`, its channels take the place of images: it is the forward pass of a layer that
contracts over images, where they are few and channels fill the lanes. Else (`staged`) it transforms both operands,
multiplies row by row of the bins, sums over the lanes, and inverts: three stages, each in parallel. A chunk is as many
lane blocks as are in memory at a time; the order of every sum is the same for all orders, chunks and pieces, and so are
the bits.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

from ..integers import Size, ceil_div
from .fft2d import buffer_size
from .product import SLAB
from .vector import LINE_BYTES, lanes

ALIGNMENT = LINE_BYTES  # bytes: of the beginning of a workspace
IDLE = 2  # tasks for each worker, below which some have much less to do than others
MOST_EXCHANGED = 256  # images of a weight_grad whose lanes are channels: each task holds their spectra at once


class Piece(NamedTuple):
    """Some output channels and what they are made of; `outputs` and `depth` count those of each of `groups` groups."""

    groups: int
    depth: int
    outputs: int
    first_input: int
    first_output: int
    first_block: int  # the weights of these blocks of filters ...
    blocks: int
    first_channel: int  # ... and channels
    channels: int
    first_lane: int  # of those blocks


class Spectrum(NamedTuple):
    """Where a spectrum lies, [ky][kx][block][channel][line] in reals; pitches are odd numbers of lines.

    `held` is how many blocks lie at each bin where these are some of them.
    """

    at: int
    size: Size
    columns: int
    blocks: int
    channels: int
    line: int
    held: int = 0

    @property
    def bin_pitch(self) -> int:
        return ((self.held or self.blocks) * self.channels | 1) * self.line

    @property
    def row_pitch(self) -> int:
        return (self.columns * (self.bin_pitch // self.line) | 1) * self.line

    @property
    def reals(self) -> int:
        return self.size[0] * self.row_pitch

    @property
    def block_pitch(self) -> int:
        return self.channels * self.line

    def some(self, first: int, blocks: int) -> "Spectrum":
        """Some of the blocks."""
        return self._replace(at=self.at + first * self.block_pitch, blocks=blocks, held=self.held or self.blocks)

    def of(self, piece: Piece) -> "Spectrum":
        """The spectrum of all weights, beginning with the first line of a piece."""
        line = piece.first_block * self.channels + piece.first_channel
        return self._replace(at=self.at + line * self.line + piece.first_lane)


@dataclass(frozen=True)
class Work:
    """One pass of a layer at one size of tiles as the engine sees it."""

    pass_name: str
    itemsize: int
    size: Size
    N: int
    C: int
    K: int
    groups: int
    segments: int
    extents: tuple[Size, Size, Size]  # positions beyond which the operands are zero and the result is not wanted
    exchanged: bool = False  # a weight_grad that runs as the forward pass of N = C images, C = N * segments channels

    @cached_property
    def dtype(self) -> str:
        return f"float{8 * self.itemsize}"

    @cached_property
    def lanes(self) -> int:
        return lanes(self.itemsize)

    @cached_property
    def line(self) -> int:
        return 2 * self.lanes

    def exchanges(self) -> Iterator["Work"]:
        """The same pass with other lanes.

        weight_grad is the forward pass of a layer whose images are the channels of this one, so that nothing is summed
        over lanes: better for few images of many channels.
        """
        if self.pass_name == "weight_grad" and self.groups == 1 and self.images <= MOST_EXCHANGED:
            yield replace(self, pass_name="forward", N=self.C, C=self.images, segments=1, exchanged=True)

    @cached_property
    def sums_lanes(self) -> bool:
        """Whether the pass contracts over the lanes."""
        return self.pass_name == "weight_grad"

    @cached_property
    def images(self) -> int:
        """(image, segment) pairs."""
        return self.N * self.segments

    @cached_property
    def image_blocks(self) -> int:
        return ceil_div(self.images, self.line)

    @cached_property
    def Cg(self) -> int:
        return self.C // self.groups

    @cached_property
    def Kg(self) -> int:
        return self.K // self.groups

    @cached_property
    def groups_in_block(self) -> int:
        """Whole groups of filters that share a lane block."""
        return max(1, min(self.groups, self.lanes // self.Kg))

    @cached_property
    def unit(self) -> int:
        """Filters that fill lane blocks together."""
        return self.groups_in_block * self.Kg

    @cached_property
    def unit_blocks(self) -> int:
        return ceil_div(self.unit, self.lanes)

    @cached_property
    def units(self) -> int:
        return ceil_div(self.groups, self.groups_in_block)

    @cached_property
    def inputs(self) -> int:
        """Channels of the first operand."""
        return self.K if self.pass_name == "input_grad" else self.C

    @cached_property
    def pairs(self) -> int:
        """Planes (k, c) of the weight."""
        return self.K * self.Cg

    @cached_property
    def pair_lines(self) -> int:
        return ceil_div(self.pairs, self.line)

    def packed(self, at: int, blocks: int, channels: int) -> Spectrum:
        return Spectrum(at, self.size, self.size[1], blocks, channels, self.line)

    def all_images(self, at: int = 0) -> Spectrum:
        """Of the first operand."""
        return self.packed(at, self.image_blocks, self.inputs)

    def weights(self, at: int, blocks: int, channels: int) -> Spectrum:
        return Spectrum(at, self.size, self.size[1] // 2 + 1, blocks, channels, self.line)

    def all_weights(self, at: int = 0) -> Spectrum:
        return self.weights(at, self.units * self.unit_blocks, self.Cg)

    def largest(self, width: int) -> Piece:
        """The first piece of the first unit: no other is larger."""
        return next(self.pieces(0, width))

    @cached_property
    def outputs(self) -> int:
        """Output channels of a group."""
        return self.Kg if self.pass_name == "forward" else self.Cg

    def piece_count(self, width: int) -> int:
        """Pieces of all units, where the last is like the others."""
        return self.units * ceil_div(self.outputs, self.largest(width).outputs)

    def pieces(self, unit: int, width: int) -> Iterator[Piece]:
        """The pieces of a unit, of so many channels where it is one group; all units are alike, but the last may have
        fewer groups. The lanes are a multiple of the width."""
        first = unit * self.groups_in_block
        groups = min(self.groups_in_block, self.groups - first)
        block = unit * self.unit_blocks
        forward = self.pass_name == "forward"
        depth = self.Cg if forward else self.Kg
        for start in range(0, self.outputs, width if groups == 1 else self.outputs):
            count = min(width, self.outputs - start) if groups == 1 else self.outputs
            if forward:
                held = block + start // self.lanes, 1, 0, self.Cg, start % self.lanes
            else:
                held = block, self.unit_blocks, start, count, 0
            yield Piece(groups, depth, count, first * depth, first * self.outputs + start, *held)


@dataclass(frozen=True)
class Schedule:
    """How a pass runs: lane blocks of images in memory at a time and in a rectangle, output channels in a rectangle,
    lines of weight planes."""

    order: str
    workers: int
    chunk: int
    piece: int = 1
    width: int = 0
    pair_lines: int = 0
    share_weights: bool = True

    def describe(self, work: Work) -> str:
        """In words."""
        lanes_of = "channels, in the place of images," if work.exchanged else "images"
        said = f"{self.order} by {self.workers} threads, {self.chunk} lane blocks of {lanes_of} at a time"
        if self.order == "staged":
            return f"{said}, {self.pair_lines} lines of weight planes"
        when = "first" if self.share_weights else "by each task"
        return f"{said}, {self.piece} x {self.width} channels in a rectangle, weights transformed {when}"


class Regions(NamedTuple):
    """Where the regions of a workspace begin, in reals, and where it ends. Each worker has `private` reals of its own:
    scratch for the transforms, then spectra."""

    first: int
    second: int
    result: int
    workers: int
    private_first: int
    private_second: int
    private_result: int
    private: int
    end: int


@lru_cache(1024)
def regions(work: Work, schedule: Schedule) -> Regions:
    """The workspace of a pass: what is shared, then what each worker has for itself.

    It begins with the gradient of the output, where input_grad and weight_grad both transform all of it at once: the
    second of them can find it there.
    """
    shared, private = [0, 0, 0], [0, 0, 0]
    if work.sums_lanes:
        lines, chunk = work.pair_lines if schedule.chunk < work.image_blocks else schedule.pair_lines, schedule.chunk
        shared = [work.packed(0, *sides).reals for sides in ((chunk, work.C), (chunk, work.K), (lines, 1))]
    else:
        largest = work.largest(schedule.width)
        if schedule.order == "by_images":
            private[0] = work.packed(0, schedule.piece, largest.groups * largest.depth).reals
        else:
            shared[0] = work.packed(0, schedule.chunk, work.inputs).reals
        if schedule.share_weights:
            shared[1] = work.all_weights().reals
        else:
            private[1] = work.weights(0, largest.blocks, largest.channels).reals
        private[2] = work.packed(0, schedule.piece, largest.groups * largest.outputs).reals
    first, second, result = shared
    scratch = buffer_size(work.size, work.itemsize)
    inner_first, inner_second, inner_result = private
    inner = scratch + inner_first + inner_second + inner_result
    workers = first + second + result
    return Regions(
        first=second if work.sums_lanes else 0,
        second=0 if work.sums_lanes else first,
        result=first + second,
        workers=workers,
        private_first=scratch,
        private_second=scratch + inner_first,
        private_result=scratch + inner_first + inner_second,
        private=inner,
        end=workers + schedule.workers * inner,
    )


def spectrum_of(work: Work, name: str) -> Spectrum:
    """The spectrum of a whole input or weight, as an array of its own; `work` is a forward pass."""
    return work.all_images() if name == "input" else work.all_weights()


def spectrum_bytes(work: Work, name: str, workers: int) -> int:
    """Bytes that `spectrum_of` takes, with scratch for the workers behind it and what alignment may cost."""
    reals = spectrum_of(work, name).reals + workers * buffer_size(work.size, work.itemsize)
    return reals * work.itemsize + ALIGNMENT


def shares_gradients(weight_grad: Work, whole: bool, schedules: tuple[Schedule, Schedule]) -> bool:
    """Whether weight_grad finds the spectrum of dY where input_grad has left it: at the beginning of the workspace."""
    by_outputs = schedules[0].order == "by_outputs"
    at_once = min(schedule.chunk for schedule in schedules) >= weight_grad.image_blocks
    return whole and weight_grad.sums_lanes and by_outputs and at_once


def worth_keeping(works: Sequence[Work], schedules: Sequence[Schedule]) -> tuple[str, ...]:
    """Which spectra of a forward pass its gradients may read instead of making their own; of the passes in their order.

    Only what the forward pass lays down for all threads anyway: a spectrum that stays in the cache of one core is made
    anew in less time than memory takes to bring it back.
    """
    forward, input_grad = schedules[:2]
    of_input = forward.order == "by_outputs" and forward.chunk >= works[0].image_blocks and works[2].sums_lanes
    of_weight = forward.share_weights and input_grad.share_weights
    return ("input",) * of_input + ("weight",) * of_weight


def workspace_bytes(work: Work, schedule: Schedule) -> int:
    """Bytes of a workspace, with what its beginning may lose to alignment."""
    return regions(work, schedule).end * work.itemsize + ALIGNMENT


def schedules(work: Work, threads: int) -> Iterator[Schedule]:
    """The ways to run a pass."""
    blocks = work.image_blocks
    if work.sums_lanes:
        for chunk in sizes(blocks, SLAB):
            for lines in sizes(work.pair_lines) if chunk == blocks else [work.pair_lines]:
                yield Schedule("staged", threads, chunk, pair_lines=lines)
        return
    for chunk in sizes(blocks):
        for piece in sizes(min(chunk, 8)):
            for width, share in _widths(work, chunk, piece, threads):
                tasks = work.piece_count(width) * (ceil_div(chunk, piece) if share else 1)
                yield Schedule("by_outputs", min(threads, tasks), chunk, piece, width, share_weights=share)
    for piece in sizes(min(blocks, 8)):
        yield Schedule("by_images", min(threads, ceil_div(blocks, piece) * work.units), blocks, piece, work.lanes)


def _widths(work: Work, chunk: int, piece: int, threads: int) -> Iterator[tuple[int, bool]]:
    """Channels of a rectangle, and whether weights are transformed first: all lanes, and fewer while threads are idle.

    Weights are transformed by the lanes, so that a piece of fewer filters cannot have its own.
    """
    if chunk < work.image_blocks:
        yield work.lanes, True
        return
    width = work.lanes
    while True:
        pieces = work.piece_count(width)
        if width == work.lanes or work.pass_name != "forward":
            yield width, False
        if pieces < IDLE * threads:
            yield width, True
        count = min(width, work.outputs)
        if count == 1 or work.groups_in_block > 1 or pieces * ceil_div(chunk, piece) >= IDLE * threads:
            return
        width = 1 << ((count - 1).bit_length() - 1)  # the next power of 2


def sizes(whole: int, step: int = 1) -> list[int]:
    """`whole`, and a few smaller multiples of `step` down to the least."""
    halves, size = [whole], ceil_div(whole, 2 * step) * step
    while size < halves[-1]:
        halves.append(size)
        size = ceil_div(size, 2 * step) * step
    return halves
