"""What the workers of the CPU engine do, without doing it: the tables of cpu/program.py, read as the kernels read them.

`Reader` runs a program on names in place of numbers: memory holds at the place of a line which planes were transformed
to it, and after a product which products were summed there. A private region is empty when a task begins; what a
stage writes can be read when it has ended; nothing may be written twice in a stage.
"""
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PASSES, Problem, call
from test_same_bits import LAYERS, assert_same, plain

from numba_fftconv.cpu import fft2d, product
from numba_fftconv.cpu.engine import Run
from numba_fftconv.cpu.program import (
    ARGUMENTS,
    FIRST,
    INVERSE,
    KERNEL,
    LO,
    MULTIPLY,
    SECOND,
    Given,
    parts,
    program,
    transform_program,
)
from numba_fftconv.cpu.schedule import Schedule, Work, regions, schedules, shares_gradients, workspace_bytes

Place = tuple[str, int]  # a memory, "shared", "private", "images" or "filters", and an offset in reals


@st.composite
def works(draw: st.DrawFn) -> Work:
    """A pass of a layer: a block of 8 or 16 images not full, full, or one more; the size sets the number of tasks."""
    groups = draw(st.sampled_from((1, 1, 1, 2, 3, 9)))
    most = 40 if groups == 1 else 12
    C, K = (groups * draw(st.sampled_from((1, 2, 3, 4, 5, 8)) | st.integers(1, most)) for _ in range(2))
    images = draw(st.sampled_from((1, 2, 7, 8, 9, 15, 16, 17, 33, 70, 140)))
    segments = draw(st.sampled_from((1, 1, 2, 3)))
    size = draw(st.sampled_from(((2, 2), (8, 8), (8, 8), (64, 64), (2, 64), (64, 8))))
    name, itemsize = draw(st.sampled_from(PASSES)), draw(st.sampled_from((4, 8)))
    work = Work(name, itemsize, size, images, C, K, groups, segments, (size, size, size))
    return draw(st.sampled_from((work, *work.exchanges())))


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Work, Schedule]:
    work = draw(works())
    return work, draw(st.sampled_from(list(schedules(work, draw(st.sampled_from((1, 2, 3, 8)))))))


class Reader:
    """Runs a program of a pass on names."""

    def __init__(self, work: Work, schedule: Schedule, given: Given = (False, False)) -> None:
        self.work, self.at, self.given = work, regions(work, schedule), given
        self.table = program(work, schedule, given)
        self.memory: dict[Any, Any] = {}
        self.stage: dict[Any, Any] = {}
        self.inverted: Counter[tuple[int, int]] = Counter()
        images, of_dy = work.all_images(), work.packed(0, work.image_blocks, work.K)
        self.whole = {"images": images, "filters": of_dy if work.sums_lanes else work.all_weights()}
        letters = {"images": "x", "filters": "d" if work.sums_lanes else "w"}
        for (kind, whole), is_given in zip(self.whole.items(), given, strict=True):
            for task in range(whole.blocks * whole.channels) if is_given else ():
                self.memory[kind, task * work.line] = (letters[kind], *divmod(task, whole.channels))

    def run(self) -> "Reader":
        """All tasks, those of a stage in the reverse of their order."""
        steps, tasks, stages, most_at_once = self.table
        assert tasks[0] == stages[0] == 0 and tasks[-1] == len(steps) and stages[-1] == len(tasks) - 1
        assert (np.diff(tasks) > 0).all() and (np.diff(stages) > 0).all() and most_at_once == np.diff(stages).max()
        for begin, end in itertools.pairwise(stages):
            self.stage = {}
            for task in reversed(range(begin, end)):
                for step in steps[tasks[task]:tasks[task + 1]]:
                    {MULTIPLY: self.multiply, INVERSE: self.inverse}.get(step[KERNEL], self.transform)(step)
                self.memory = {place: name for place, name in self.memory.items() if place[0] != "private"}
            self.memory.update(self.stage)
        return self

    # ---- memory

    def place(self, at: int, size: int, operand: int = product.Y_AT) -> Place:
        """Where a kernel finds `size` reals: inside one region of the workspace, or of the worker's own; or of what a
        product reads, in an array that was given."""
        first, second = self.given
        if (operand == product.X_AT and first) or (operand == product.W_AT and second):
            kind = "images" if operand == product.X_AT else "filters"
            assert at >= 0 and at + size <= self.whole[kind].reals
            return kind, at
        kind, offset = ("shared", at) if at >= 0 else ("private", -1 - at)
        r = self.at
        ends = {
            "shared": (*sorted((r.first, r.second)), r.result, r.workers),
            "private": (r.private_first, r.private_second, r.private_result, r.private),
        }[kind]
        region = max(i for i, begin in enumerate(ends) if begin <= offset)
        assert region < 3 and offset + size <= ends[region + 1], f"{kind}, {offset} + {size} in {ends}"
        return kind, offset

    def write(self, place: Any, name: Any) -> None:
        if place[0] == "private":
            self.memory[place] = name
        else:
            assert place not in self.stage, f"{place} is written twice in one stage"
            self.stage[place] = name

    # ---- kernels

    def lines(self, step: np.ndarray, columns: int) -> Iterator[tuple[Place, int, int]]:
        """Of a transform or an inverse: the places of its lines, with the block and the channel of the planes."""
        lo, hi, *where = (int(n) for n in step[LO:])
        channels, bin_pitch, row_pitch = where[fft2d.CHANNELS], where[fft2d.BIN_PITCH], where[fft2d.ROW_PITCH]
        rows, line = self.work.size[0], self.work.line
        assert 0 <= lo < hi and (hi <= channels or bin_pitch >= hi * line)
        size = (rows - 1) * row_pitch + (columns - 1) * bin_pitch + hi * line
        kind, begin = self.place(where[fft2d.AT], size)
        for task in range(lo, hi):
            block, channel = divmod(task, channels)
            yield (kind, begin + task * line), where[fft2d.FIRST_BLOCK] + block, where[fft2d.FIRST_CHANNEL] + channel

    def transform(self, step: np.ndarray) -> None:
        real = step[KERNEL] == SECOND and not self.work.sums_lanes
        columns = self.work.size[1] // 2 + 1 if real else self.work.size[1]
        for place, block, channel in self.lines(step, columns):
            self.write(place, ("w" if real else "xd"[step[KERNEL]], block, channel))

    def inverse(self, step: np.ndarray) -> None:
        for place, block, channel in self.lines(step, self.work.size[1]):
            self.inverted[block, channel] += 1
            if self.work.sums_lanes:
                for ky in range(self.work.size[0]):
                    first, blocks = self.memory[(*place, ky)]
                    assert first == block * self.work.line and blocks == list(range(self.work.image_blocks))
            else:
                assert self.memory[place] == self.sum_of(block, channel), (block, channel)

    def sum_of(self, block: int, channel: int) -> list[tuple[Any, Any]]:
        """The products that make a plane of the result, in their order: a plane of the operand and a weight (k, c)."""
        work = self.work
        if work.pass_name == "forward":
            first = channel // work.Kg * work.Cg
            return [(("x", block, first + c), (channel, c)) for c in range(work.Cg)]
        group, c = divmod(channel, work.Cg)
        return [(("x", block, k), (k, c)) for k in range(group * work.Kg, (group + 1) * work.Kg)]

    def multiply(self, step: np.ndarray) -> None:
        (self.multiply_pairs if self.work.sums_lanes else self.multiply_outputs)(step)

    def multiply_outputs(self, step: np.ndarray) -> None:
        job, work = [int(n) for n in step[ARGUMENTS:]], self.work
        blocks, groups, steps, count = (job[i] for i in (product.BLOCKS, product.GROUPS, product.STEPS, product.COUNT))
        assert (step[1], step[2], job[product.SWAPPED]) == (0, work.size[0], work.pass_name == "input_grad")
        assert (job[product.ROWS], job[product.COLUMNS]) == work.size

        def begin(operand: int, columns: int, last: int) -> Place:
            row, leap = job[operand + 1], job[operand + 2]
            end = (work.size[0] - 1) * row + (columns - 1) * leap + last
            lane = max(0, job[operand]) % work.line  # of the first weight
            kind, place = self.place(job[operand] - lane, end, operand)
            return kind, place + lane

        def to_line(operand: int, block: int, group: int, number: int) -> int:
            return block * job[operand + 3] + group * job[operand + 4] + number * work.line

        def to_weight(group: int, o: int, i: int) -> int:
            across, far = i % work.lanes * job[product.W_STEP], i // work.lanes * job[product.W_BLOCK]
            return group * job[product.W_GROUP] + o * job[product.W_OUTPUT] + across + far

        x_kind, x = begin(product.X_AT, work.size[1], to_line(product.X_AT, blocks - 1, groups - 1, steps))
        y_kind, y = begin(product.Y_AT, work.size[1], to_line(product.Y_AT, blocks - 1, groups - 1, count))
        last = to_weight(groups - 1, count - 1, steps - 1) // work.line * work.line + work.line
        w_kind, w = begin(product.W_AT, work.size[1] // 2 + 1, last)
        for group in range(groups):
            for o in range(count):
                weights = [self.weight(w_kind, w, to_weight(group, o, i)) for i in range(steps)]
                for block in range(blocks):
                    lines = (x + to_line(product.X_AT, block, group, i) for i in range(steps))
                    terms = [(self.memory[x_kind, line], weight) for line, weight in zip(lines, weights, strict=True)]
                    self.write((y_kind, y + to_line(product.Y_AT, block, group, o)), terms)

    def weight(self, kind: str, begin: int, offset: int) -> tuple[int, int]:
        """The weight (k, c) whose real part is there."""
        place = begin + offset
        lane = place % self.work.line
        letter, block, channel = self.memory[kind, place - lane]
        unit, part = divmod(block, self.work.unit_blocks)
        filters = part * self.work.lanes + lane
        assert letter == "w" and lane < self.work.lanes and filters < self.work.unit
        return unit * self.work.unit + filters, channel

    def multiply_pairs(self, step: np.ndarray) -> None:
        work, job = self.work, [int(n) for n in step[ARGUMENTS:]]
        first, lines, blocks = job[product.FIRST], job[product.LINES], job[product.BLOCKS]
        sides = job[product.PAIRS], job[product.CHANNELS], job[product.FILTERS]
        assert sides == (work.pairs, work.Cg, work.Kg) and first % work.line == 0
        assert (job[product.ROWS], job[product.COLUMNS]) == work.size
        last = np.subtract(work.size, 1)
        summed = []
        for block in range(blocks):
            seen = set()
            for at, leap, name, channels in ((product.X_AT, product.X_BLOCK, "x", work.C),
                                             (product.W_AT, product.W_BLOCK, "d", work.K)):
                size = int(last @ job[at + 1 : at + 3]) + block * job[leap] + channels * work.line
                kind, begin = self.place(job[at], size, at)
                for channel in range(channels):
                    letter, of_block, of_channel = self.memory[kind, begin + block * job[leap] + channel * work.line]
                    assert (letter, of_channel) == (name, channel)
                    seen.add(of_block)
            (found,) = seen
            summed.append(found)
        size = int(last @ (job[product.Y_ROW], job[product.Y_BIN])) + lines * work.line
        kind, begin = self.place(job[product.Y_AT], size)
        for n in range(lines):
            for ky in range(step[1], step[2]):
                place = kind, begin + n * work.line, ky
                before = (first + n * work.line, []) if job[product.FRESH] else self.memory[place]
                assert before[0] == first + n * work.line
                self.write(place, (before[0], before[1] + summed))


def check(reader: Reader) -> None:
    work, outputs = reader.work, reader.work.K if reader.work.pass_name == "forward" else reader.work.C
    planes = (work.pair_lines, 1) if work.sums_lanes else (work.image_blocks, outputs)
    assert reader.run().inverted == Counter(np.ndindex(planes))


@settings(max_examples=300)
@given(job=jobs(), given_spectra=st.tuples(st.booleans(), st.booleans()))
def test_every_plane_of_a_result_is_made_once_of_what_it_needs(
    job: tuple[Work, Schedule], given_spectra: Given
) -> None:
    work, schedule = job
    reader = Reader(work, schedule, given_spectra)
    check(reader)
    for kernel, is_given in zip((FIRST, SECOND), given_spectra, strict=True):
        assert (kernel in reader.table.steps[:, KERNEL]) != is_given


@given(data=st.data(), work=works(), threads=st.sampled_from((1, 2, 8)))
def test_weight_grad_finds_the_spectrum_of_dy_where_input_grad_leaves_it(
    data: st.DataObject, work: Work, threads: int
) -> None:
    """At the beginning of the workspace, in the lines that it asks for; nothing there is written in between."""
    first, second = (replace(work, pass_name=name, exchanged=False) for name in ("input_grad", "weight_grad"))
    ways = [data.draw(st.sampled_from(list(schedules(each, threads)))) for each in (first, second)]
    if not shares_gradients(second, True, (ways[0], ways[1])):
        return
    of_input, of_weight = Reader(first, ways[0]).run(), Reader(second, ways[1], (False, True))
    left = {at: name for (kind, at), name in of_input.memory.items() if kind == "shared" and name[0] == "x"}
    assert {at: ("d", *name[1:]) for at, name in left.items()} == {
        at: name for (kind, at), name in of_weight.memory.items() if kind == "filters"
    }
    check(of_weight)
    written = [at for (kind, at, *_), _ in of_weight.memory.items() if kind == "shared"]
    assert min(written) >= of_weight.whole["filters"].reals


@given(work=works(), workers=st.integers(1, 8), name=st.sampled_from(("input", "weight")))
def test_every_plane_of_an_operand_is_transformed_once(work: Work, workers: int, name: str) -> None:
    """By transform_input and transform_weight: all filters of all units, whose last may have fewer groups."""
    steps, _, stages, _ = transform_program(work, workers, name)
    whole = work.all_images() if name == "input" else work.all_weights()
    seen = Counter(task for step in steps for task in range(step[1], step[2]))
    assert seen == Counter(range(whole.blocks * whole.channels)) and len(stages) == 2
    assert (steps[:, KERNEL] == (FIRST if name == "input" else SECOND)).all()
    where = (0, whole.channels, whole.bin_pitch, whole.row_pitch, 0, 0)
    assert (steps[:, ARGUMENTS:] == where).all()
    if name == "input":
        return
    k = np.arange(work.K)
    assert len(set(zip(k // work.unit, k % work.unit, strict=True))) == work.K <= whole.blocks * work.lanes


@given(job=jobs())
def test_the_regions_of_a_workspace_follow_each_other(job: tuple[Work, Schedule]) -> None:
    """Shared spectra, then the regions of the workers, of which each begins with scratch for one transform."""
    work, schedule = job
    at = regions(work, schedule)
    assert 0 == min(at.first, at.second) <= max(at.first, at.second) <= at.result <= at.workers
    scratch = fft2d.buffer_size(work.size, work.itemsize)
    assert scratch == at.private_first <= at.private_second <= at.private_result <= at.private
    assert at.end == at.workers + schedule.workers * at.private
    assert workspace_bytes(work, schedule) >= at.end * work.itemsize


@given(count=st.integers(1, 5000), lines=st.sampled_from((4, 64, 4096, 70000)), workers=st.integers(1, 16))
def test_parts_are_a_division(count: int, lines: int, workers: int) -> None:
    made = parts(count, lines, workers)
    assert [n for lo, hi in made for n in range(lo, hi)] == list(range(count))
    assert len(made) <= 4 * workers


@pytest.mark.parametrize("name", PASSES)
def test_a_wrong_number_in_a_program_is_seen(name: str) -> None:
    """The test of the tests: each place, first block and first channel in turn is one too large."""
    work = Work(name, 4, (8, 4), 40, 20, 12, 1, 1, ((8, 4),) * 3)
    for schedule in schedules(work, 2):
        table = Reader(work, schedule).table
        for row, step in enumerate(table.steps):
            line = {ARGUMENTS + n: work.line for n in (product.X_AT, product.Y_AT, product.W_AT)}
            one = {ARGUMENTS + fft2d.AT: work.line}
            one |= {ARGUMENTS + n: 1 for n in (fft2d.FIRST_BLOCK, fft2d.FIRST_CHANNEL)}
            for column, more in (line if step[KERNEL] == MULTIPLY else one).items():
                reader = Reader(work, schedule)
                reader.table = table._replace(steps=table.steps.copy())
                reader.table.steps[row, column] += more
                with pytest.raises((AssertionError, KeyError, ValueError)):
                    check(reader)


@pytest.mark.parametrize("problem", LAYERS, ids=lambda problem: problem.title)
def test_step_by_step_from_python_gives_the_same_bits(problem: Problem) -> None:
    """`Run.profile`, which times each kernel, does what the compiled loop does."""
    want, plan, a = plain(problem), problem.plan(), problem.arrays()
    spent: list[float] = []
    with mock.patch.object(Run, "__call__", lambda run: spent.extend(run.profile())):
        for name in PASSES:
            assert_same(call(plan, a, name), want[name], name)
    assert len(spent) == 12 and min(spent) >= 0 and sum(spent) > 0
