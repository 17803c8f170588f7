"""What the workers do in a pass, as a table of integers: made once for a schedule, whatever the arrays.

A step is one call of a kernel, a task some steps that one worker does one after the other, a stage some tasks that may
run in any order and at once; stages follow each other. A step is a row of the table: which kernel, its tasks LO .. HI
(for MULTIPLY rows of bins), and from ARGUMENTS on what it knows of the spectra. Places in the workspace are offsets in
reals; a place in the region that each worker has for itself stands as `private(offset)`, a negative number.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..integers import area, ceil_div
from .schedule import Piece, Regions, Schedule, Spectrum, Work, regions, spectrum_of

FIRST, SECOND, MULTIPLY, INVERSE = range(4)  # kernels: the transforms of either operand, the product, the inverse
KERNELS = 4
KERNEL, LO, HI, ARGUMENTS = range(4)  # columns of a step

CLAIMS = 4  # tasks for each worker in a stage of equal parts
LEAST = 2048  # lines of a part that is worth a claim of its own

Given = tuple[bool, bool]  # of the first and the second operand
Step = tuple[int, ...]
Task = list[Step]
Job = tuple[int, Spectrum, int]  # a spectrum to be filled: by which kernel, and with planes from which lane block on


class Program(NamedTuple):
    """Steps as rows, the first step of each task, the first task of each stage; of both also the end."""

    steps: np.ndarray
    tasks: np.ndarray
    stages: np.ndarray
    most_at_once: int  # workers that can be busy at a time


def private(offset: int) -> int:
    """A place in the worker's own region."""
    return -1 - offset


def assemble(stages: list[list[Task]]) -> Program:
    """The table of some stages, of which those without tasks are left out."""
    stages = [stage for stage in stages if stage]
    tasks = [task for stage in stages for task in stage]
    steps = [step for task in tasks for step in task]
    table = np.zeros((len(steps), max(map(len, steps))), np.int64)
    for row, step in zip(table, steps, strict=True):
        row[: len(step)] = step
    last_steps, last_tasks = (np.cumsum([0, *map(len, parts)], dtype=np.int64) for parts in (tasks, stages))
    return Program(table, last_steps, last_tasks, max(map(len, stages)))


@lru_cache(256)
def transform_program(work: Work, workers: int, name: str) -> Program:
    """The transform of the whole input or weight of a forward pass, into a spectrum at 0."""
    kernel = FIRST if name == "input" else SECOND
    return assemble([transforms(work, workers, (kernel, spectrum_of(work, name), 0))])


@lru_cache(256)
def program(work: Work, schedule: Schedule, given: Given) -> Program:
    """A pass; `given` says which operands are spectra already, of all images or all weights, in arrays of their own."""
    at = regions(work, schedule)
    if work.sums_lanes:
        return assemble(list(staged(work, schedule, at, given)))
    order = by_outputs if schedule.order == "by_outputs" else by_images
    return assemble(list(order(work, schedule, at, given, *shared_weights(work, schedule, at, given))))


# ---- orders of work --------------------------------------------------------------------------------------------------


def by_outputs(
    work: Work, schedule: Schedule, at: Regions, given: Given, first_jobs: list[Job], shared: Spectrum | None
) -> Iterator[list[Task]]:
    """All images of a chunk, and weights that tasks share; then by task a piece of the channels with all images, or
    where weights are shared one rectangle."""
    for first in range(0, work.image_blocks, schedule.chunk):
        images, jobs = operand(work, FIRST, at.first, first, min(schedule.chunk, work.image_blocks - first), given)
        yield transforms(work, schedule.workers, *jobs, *(first_jobs if first == 0 else []))
        stage = []
        for piece in all_pieces(work, schedule):
            task, weights = ([], shared.of(piece)) if shared is not None else piece_of_weights(work, at, piece)
            for start in range(0, images.blocks, schedule.piece):
                blocks = range(first + start, first + min(start + schedule.piece, images.blocks))
                some = images.some(start, len(blocks))
                some = some._replace(at=some.at + piece.first_input * work.line)
                task += rectangle(work, at, piece, some, weights, blocks)
                if shared is not None:
                    stage.append(task)
                    task = []
            if task:
                stage.append(task)
        yield stage


def by_images(
    work: Work, schedule: Schedule, at: Regions, given: Given, first_jobs: list[Job], weights: Spectrum | None
) -> Iterator[list[Task]]:
    """All weights; then by task some lane blocks of images with all pieces of their channels."""
    assert weights is not None
    yield transforms(work, schedule.workers, *first_jobs)
    stage = []
    for start in range(0, work.image_blocks, schedule.piece):
        blocks = range(start, min(start + schedule.piece, work.image_blocks))
        for unit in range(work.units):
            pieces = list(work.pieces(unit, schedule.width))
            channels = pieces[0].groups * pieces[0].depth
            if given[FIRST]:
                images, task = work.all_images().some(start, len(blocks)), []
                images = images._replace(at=images.at + pieces[0].first_input * work.line)
            else:
                images = work.packed(private(at.private_first), len(blocks), channels)
                task = [transform(FIRST, images, 0, images.blocks * channels, start, pieces[0].first_input)]
            for piece in pieces:
                task += rectangle(work, at, piece, images, weights.of(piece), blocks)
            stage.append(task)
    yield stage


def staged(work: Work, schedule: Schedule, at: Regions, given: Given) -> Iterator[list[Task]]:
    """weight_grad: both operands of a chunk, their product by rows of bins, and after the last chunk the inverse."""
    for first in range(0, work.image_blocks, schedule.chunk):
        blocks = min(schedule.chunk, work.image_blocks - first)
        x, of_x = operand(work, FIRST, at.first, first, blocks, given)
        dy, of_dy = operand(work, SECOND, at.second, first, blocks, given)
        yield transforms(work, schedule.workers, *of_x, *of_dy)
        for line in range(0, work.pair_lines, schedule.pair_lines):
            sums = work.packed(at.result, min(schedule.pair_lines, work.pair_lines - line), 1)
            job = pair_job(work, x, dy, sums, line, fresh=first == 0)
            tall, wide = work.size
            rows = parts(tall, 4 * wide * sums.blocks * blocks, schedule.workers)
            yield [[(MULTIPLY, lo, hi, *job)] for lo, hi in rows]
            if first + blocks == work.image_blocks:
                blocks_of_pairs = parts(sums.blocks, area(work.size), schedule.workers)
                yield [[transform(INVERSE, sums, lo, hi, line)] for lo, hi in blocks_of_pairs]


# ---- tasks and steps -------------------------------------------------------------------------------------------------


def parts(count: int, lines: int, workers: int) -> list[tuple[int, int]]:
    """Ranges (lo, hi) of `count` things that cost as much as the transform of so many lines each."""
    grain = max(ceil_div(count, CLAIMS * workers), LEAST // lines)
    return [(lo, min(count, lo + grain)) for lo in range(0, count, grain)]


def transforms(work: Work, workers: int, *jobs: Job) -> list[Task]:
    """The stage that fills spectra."""
    return [
        [transform(kernel, spectrum, lo, hi, block)]
        for kernel, spectrum, block in jobs
        for lo, hi in parts(spectrum.blocks * spectrum.channels, area(work.size), workers)
    ]


def operand(
    work: Work, kernel: int, at: int, first: int, blocks: int, given: Given
) -> tuple[Spectrum, list[Job]]:  # fmt: skip
    """The spectrum of some lane blocks of images or of dY in weight_grad, and what fills it; nothing if it is given."""
    channels = work.inputs if kernel == FIRST else work.K
    if given[kernel]:
        return work.packed(0, work.image_blocks, channels).some(first, blocks), []
    spectrum = work.packed(at, blocks, channels)
    return spectrum, [(kernel, spectrum, first)]


def transform(
    kernel: int, spectrum: Spectrum, lo: int, hi: int, first_block: int = 0, first_channel: int = 0
) -> Step:
    """A transform or an inverse of tasks lo .. hi of a spectrum that begins with this block and channel of planes."""
    where = spectrum.at, spectrum.channels, spectrum.bin_pitch, spectrum.row_pitch
    return kernel, lo, hi, *where, first_block, first_channel


def all_pieces(work: Work, schedule: Schedule) -> Iterator[Piece]:
    for unit in range(work.units):
        yield from work.pieces(unit, schedule.width)


def shared_weights(
    work: Work, schedule: Schedule, at: Regions, given: Given
) -> tuple[list[Job], Spectrum | None]:
    """What transforms the weights that all tasks share, and their spectrum; None where each task has its own."""
    if given[SECOND]:
        return [], work.all_weights()
    if not schedule.share_weights:
        return [], None
    spectrum = work.all_weights(at.second)
    return [(SECOND, spectrum, 0)], spectrum


def piece_of_weights(work: Work, at: Regions, piece: Piece) -> tuple[Task, Spectrum]:
    """The beginning of a task: its weights, transformed into the worker's own region."""
    spectrum = work.weights(private(at.private_second), piece.blocks, piece.channels)
    count = spectrum.blocks * spectrum.channels
    return [transform(SECOND, spectrum, 0, count, piece.first_block, piece.first_channel)], spectrum


def rectangle(work: Work, at: Regions, piece: Piece, images: Spectrum, weights: Spectrum, blocks: range) -> Task:
    """Multiplies the spectra of some lane blocks of images by those of a piece of the weights, and inverts them."""
    result = work.packed(private(at.private_result), len(blocks), piece.groups * piece.outputs)
    return [
        (MULTIPLY, 0, work.size[0], *product_job(work, piece, images, weights, result)),
        transform(INVERSE, result, 0, result.blocks * result.channels, blocks.start, piece.first_output),
    ]


def product_job(work: Work, piece: Piece, images: Spectrum, weights: Spectrum, result: Spectrum) -> Step:
    """What a product of forward or input_grad knows: spectra that begin with the first line of the piece."""
    forward = work.pass_name == "forward"
    output, step, leap = (1, work.line, work.lanes * work.line) if forward else (work.line, 1, weights.block_pitch)
    return (
        images.at, images.row_pitch, images.bin_pitch, images.block_pitch, piece.depth * work.line,
        result.at, result.row_pitch, result.bin_pitch, result.block_pitch, piece.outputs * work.line,
        weights.at, weights.row_pitch, weights.bin_pitch, leap, work.Kg,
        result.blocks, output, step, not forward, piece.groups, piece.depth, piece.outputs, *work.size,
    )  # fmt: skip


def pair_job(work: Work, x: Spectrum, dy: Spectrum, sums: Spectrum, line: int, fresh: bool) -> Step:
    """What a product of weight_grad knows: lines of pairs (k, c) from `line` on."""
    return (
        x.at, x.row_pitch, x.bin_pitch, x.block_pitch, 0,
        sums.at, sums.row_pitch, sums.bin_pitch, 0, 0,
        dy.at, dy.row_pitch, dy.bin_pitch, dy.block_pitch, 0,
        x.blocks, line * work.line, sums.blocks, work.pairs, work.Cg, work.Kg, fresh, *work.size,
    )  # fmt: skip
