"""The machine that runs PTX: how it moves, branches and waits; what it refuses: races, faults, unknown instructions."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ptx_text import RNG, THREADS, module, run

from numba_fftconv.cuda import ptx_machine
from numba_fftconv.cuda.ptx_machine import block

# ---- what is the machine's own: moving, branching, waiting -----------------------------------------------------------

THREAD = "mov.u32 %r0, %tid.x; ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out];"
IN_OUT = ".param .u64 in, .param .u64 out"
TILE = ".extern .shared .align 16 .b8 tile[];"


def test_vectors() -> None:
    """ld and st of two and four values, through the cache for what nobody writes too."""
    x, y = RNG.standard_normal((THREADS, 4)).astype(np.float32), np.zeros((THREADS, 4), np.float32)
    body = f"""{THREAD} mul.wide.u32 %d2, %r0, 16; add.s64 %d3, %d0, %d2; add.s64 %d4, %d1, %d2;
    ld.global.nc.v4.f32 {{%f0, %f1, %f2, %f3}}, [%d3];
    st.global.v4.f32 [%d4], {{%f3, %f2, %f1, %f0}};
    ld.global.v2.f32 {{%f4, %f5}}, [%d3+8];
    st.global.v2.f32 [%d4], {{%f4, %f4}};"""
    run(module(IN_OUT, body), x, y)
    np.testing.assert_array_equal(y, np.stack([x[:, 2], x[:, 2], x[:, 1], x[:, 0]], axis=1))


def test_loads_extend_to_their_register() -> None:
    x, y = np.array([200, 7], np.uint8), np.zeros(3, np.int64)
    body = """ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out];
    ld.global.u8 %r1, [%d0]; cvt.u64.u32 %d2, %r1; st.global.u64 [%d1], %d2;
    ld.global.s8 %r1, [%d0]; cvt.s64.s32 %d2, %r1; st.global.u64 [%d1+8], %d2;
    ld.global.s8 %d2, [%d0]; st.global.u64 [%d1+16], %d2;"""
    run(module(IN_OUT, body), x, y)
    assert y.tolist() == [200, 200 - 256, 200 - 256]


class Numbers(NamedTuple):
    a: int
    b: int
    c: int


def test_structs_and_fields_are_the_same_bytes() -> None:
    outs = []
    fields = ".param .u64 out, .param .u32 n_0, .param .u32 n_1, .param .u32 n_2, .param .f32 x"
    by_value = ".param .u64 out, .param .align 4 .b8 n[12], .param .f32 x"
    for parameters, names in ((fields, ("n_0", "n_1", "n_2")), (by_value, ("n", "n+4", "n+8"))):
        out = np.zeros(4, np.int32)
        loads = [f"ld.param.u32 %r1, [{name}]; st.global.u32 [%d1+{4 * i}], %r1;" for i, name in enumerate(names)]
        body = "ld.param.u64 %d1, [out];" + "".join(loads) + "ld.param.f32 %f1, [x]; st.global.f32 [%d1+12], %f1;"
        run(module(parameters, body), out, Numbers(3, -4, 5), 1.5)
        outs.append(out)
    assert outs[0].tolist() == outs[1].tolist() == [3, -4, 5, int(np.float32(1.5).view(np.int32))]
    with pytest.raises(ValueError, match="1 of 3 parameters got no argument"):
        run(module(by_value, ""), outs[0], Numbers(1, 2, 3))


def test_branches_part_and_meet_again() -> None:
    """Thread t counts t down to 0 by a loop, the odd ones twice as fast; all write one barrier later."""
    y = np.zeros(THREADS, np.uint32)
    body = f"""{THREAD} mov.u32 %r1, 0; mov.u32 %r2, %r0;
    and.b32 %r3, %r0, 1; setp.eq.u32 %p1, %r3, 1;
$again: setp.le.s32 %p2, %r2, 0; @%p2 bra $done;
    add.u32 %r1, %r1, 1; @%p1 sub.s32 %r2, %r2, 2; @!%p1 sub.s32 %r2, %r2, 1; bra.uni $again;
$done: barrier.sync.aligned 0; mul.wide.u32 %d2, %r0, 4; add.s64 %d3, %d1, %d2; st.global.u32 [%d3], %r1;
    @%p1 exit; st.global.u32 [%d3], 7;"""
    run(module(IN_OUT, body), np.zeros(1), y)
    assert y.tolist() == [7 if t % 2 == 0 else (t + 1) // 2 for t in range(THREADS)]


@pytest.mark.parametrize("size, kept", [(16, "cg"), (8, "ca")])
def test_copies_arrive_at_their_wait(size: int, kept: str) -> None:
    """Two groups: the first has come when at most one is under way; threads from 32 on ask for nothing: zeros."""
    x, y = RNG.standard_normal(THREADS * 4).astype(np.float32), np.zeros((2, THREADS, 4), np.float32)
    copies = """cp.async.{kept}.shared.global [%r2], [%d3], {size}, %r3; cp.async.commit_group;
    cp.async.{kept}.shared.global [%r2+{half}], [%d3], {size}; cp.async.commit_group;"""
    body = f"""{THREAD} mov.u32 %r1, tile; mul.lo.u32 %r4, %r0, {size}; add.u32 %r2, %r1, %r4;
    cvt.u64.u32 %d2, %r4; add.s64 %d3, %d0, %d2; setp.lt.u32 %p1, %r0, 32; selp.u32 %r3, {size}, 0, %p1;
    {copies.format(kept=kept, size=size, half=THREADS * size)}
    cp.async.wait_group 1; ld.shared.f32 %f1, [%r2]; mul.wide.u32 %d4, %r0, 16; add.s64 %d5, %d1, %d4;
    st.global.f32 [%d5], %f1;
    cp.async.wait_group 0; ld.shared.f32 %f1, [%r2+{THREADS * size}]; st.global.f32 [%d5+1024], %f1;"""
    run(module(IN_OUT, body, TILE), x, y, shared_bytes=2 * THREADS * size)
    first = x[:: size // 4][:THREADS]
    np.testing.assert_array_equal(y[0, :, 0], np.where(np.arange(THREADS) < 32, first, 0))
    np.testing.assert_array_equal(y[1, :, 0], first)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    ["shfl.sync.down.b32 %r1, %r2, 1, 31, -1", "atom.global.add.u32 %r1, [%d1], 1", "add.f64 %d1, %d2, %d3",
     "add.ftz.f32 %f1, %f2, %f3", "ld.volatile.global.f32 %f1, [%d1]", "bar.arrive 0, 64", "cp.async.bulk.commit_group",
     "wgmma.fence.sync.aligned", "cvt.sat.f32.f32 %f1, %f2"],
)  # fmt: skip
def test_other_instructions_are_refused_by_name(statement: str) -> None:
    """Even where they are never reached: a kernel is known as a whole, or not."""
    ptx = module("", f".loc 1 7 0\nbra $end;\n{statement};\n$end:", '.file 1 "/somewhere/kernel.py"')
    words = statement.split(" ")[0].split(".")
    with pytest.raises(ptx_machine.UnknownInstructionError) as caught:
        run(ptx)
    named = str(caught.value).rsplit("does not know ")[1].split(".")
    assert str(caught.value).startswith(f"kernel.py:7: {statement.split(' ')[0]}") and set(named) <= set(words)


def shared(body: str, threads: int = THREADS) -> None:
    """Run a program whose thread t has its own word of shared memory at %r2, its neighbour's at %r3."""
    head = "mov.u32 %r0, %tid.x; mov.u32 %r1, tile; mov.f32 %f1, 0f3F800000;"
    head += "mad.lo.u32 %r2, %r0, 4, %r1; xor.b32 %r3, %r2, 4;"
    run(module(".param .u64 in", head + body, TILE), np.zeros(256), threads=threads, shared_bytes=4 * THREADS)


COPY = "ld.param.u64 %d1, [in]; cp.async.ca.shared.global [%r2], [%d1], 4; cp.async.commit_group; "
RACES = [
    ("st.shared.f32 [%r1], %f1;", "thread 63 at st.shared.f32 .*thread 0 at st.shared"),
    ("st.shared.f32 [%r2], %f1; ld.shared.f32 %f2, [%r3];", "thread 1 at st.shared.*thread 0 at ld.shared"),
    ("ld.shared.f32 %f2, [%r3]; st.shared.f32 [%r2], %f1;", "thread 1 at ld.shared.*thread 0 at st.shared"),
    ("ld.shared.f32 %f2, [%r1]; setp.eq.u32 %p1, %r0, 5; @%p1 st.shared.f32 [%r1], %f1;",
     "several threads at ld.shared.*thread 5 at st.shared"),
    ("st.shared.f32 [%r2], %f1; bar.sync 0; ld.shared.f32 %f2, [%r3]; st.shared.f32 [%r2], %f1;", "ld.*st.shared"),
    (COPY + "ld.shared.f32 %f2, [%r2];", "no wait between: thread 0 at cp.async.*thread 0 at ld.shared"),
    (COPY + "bar.sync 0; ld.shared.f32 %f2, [%r3];", "no wait between: thread 1 at cp.async"),
    (COPY + "cp.async.wait_group 0; ld.shared.f32 %f2, [%r3];", "no barrier between: thread 1 at cp.async"),
    (COPY + "st.shared.f32 [%r2], %f1;", "no wait between"),
    ("ld.shared.f32 %f2, [%r3]; " + COPY, "no barrier between: thread 1 at ld.shared.*thread 0 at cp.async"),
]  # fmt: skip


@pytest.mark.parametrize("body, message", RACES)
def test_races_are_seen(body: str, message: str) -> None:
    with pytest.raises(ptx_machine.RaceError, match=message):
        shared(body)


@pytest.mark.parametrize(
    "body",
    ["st.shared.f32 [%r2], %f1; ld.shared.f32 %f2, [%r2]; st.shared.f32 [%r2], %f2;",
     "st.shared.f32 [%r2], %f1; bar.sync 0; ld.shared.f32 %f2, [%r3]; bar.sync 0; st.shared.f32 [%r2], %f1;",
     "ld.shared.f32 %f2, [%r1]; ld.shared.f32 %f2, [%r3];",
     COPY + "cp.async.wait_group 0; ld.shared.f32 %f2, [%r2];",
     COPY + "cp.async.wait_group 0; bar.sync 0; ld.shared.f32 %f2, [%r3]; bar.sync 0;" + COPY],
)  # fmt: skip
def test_what_is_ordered_is_no_race(body: str) -> None:
    shared(body)


def test_a_race_in_a_numba_kernel_names_both_lines() -> None:
    """Thread t writes word t and reads its neighbour's, with the barrier and without."""
    numba = pytest.importorskip("numba")
    from numba import cuda, float32, uint32

    from numba_fftconv.cuda.toolchain import REALS, SIMULATED, Kernel, is_numba_cuda

    if SIMULATED or not is_numba_cuda():
        pytest.skip("compiles with NVIDIA's numba-cuda")

    def neighbour(synchronised: bool) -> Kernel:
        def kernel(gx: Any, gy: Any) -> None:
            s = cuda.shared.array(64, float32)
            t = uint32(cuda.threadIdx.x)
            s[t] = gx[t]  # the write
            if synchronised:
                cuda.syncthreads()
            gy[t] = s[t ^ uint32(1)]  # the reading

        return Kernel(f"neighbour_{synchronised}", kernel, (REALS, REALS), THREADS, 0)

    x, y = RNG.standard_normal(THREADS).astype(np.float32), np.zeros(THREADS, np.float32)
    ptx_machine.run(neighbour(True), (1, 1, 1), (x, y))
    assert numba.__name__ and np.array_equal(y, x.reshape(-1, 2)[:, ::-1].reshape(-1))
    y[:] = 5
    lines = _source().splitlines()
    write, reading = (
        next(i for i, text in enumerate(lines, 1) if text.endswith(f"# the {what}")) for what in ("write", "reading")
    )
    with pytest.raises(
        ptx_machine.RaceError, match=f"test_ptx_machine.py:{write}: st.*test_ptx_machine.py:{reading}: ld"
    ):
        ptx_machine.run(neighbour(False), (1, 1, 1), (x, y))
    assert (y == 5).all(), "a run that fails writes nothing"


BARRIERS = [
    ("setp.lt.u32 %p1, %r0, 3; @%p1 ret; bar.sync 0;", "bar.sync 0: thread 0 has ended, and 61 others wait"),
    ("setp.lt.u32 %p1, %r0, 3; @%p1 bra $b; bar.sync 0; ret; $b: barrier.sync 0;",
     "some threads wait at bar.sync 0, others at barrier.sync 0"),
]  # fmt: skip


@pytest.mark.parametrize("body, message", BARRIERS)
def test_barriers_that_not_all_reach_are_seen(body: str, message: str) -> None:
    with pytest.raises(ptx_machine.BarrierError, match=message):
        shared(body)


FAULTS: list[tuple[str, type[Exception], str]] = [
    ("ld.shared.f32 %f2, [%r2+4];", ptx_machine.AccessError, "shared address out of range: thread 63 .* 256 of 256"),
    ("st.shared.f32 [%r2+-4], %f1;", ptx_machine.AccessError, "thread 0 accesses 4 bytes from -4"),
    ("ld.shared.v2.f32 {%f2, %f3}, [%r2];", ptx_machine.AlignmentError, "thread 1 accesses 8 bytes .*not aligned"),
    ("ld.param.u64 %d1, [in]; ld.global.f32 %f1, [%d1+2];", ptx_machine.AlignmentError, "4 bytes of global memory"),
    ("ld.param.u64 %d1, [in]; ld.global.f32 %f1, [%d1+2048];", ptx_machine.AccessError, "outside of the arrays"),
    ("ld.param.u64 %d1, [in]; ld.global.f32 %f1, [%d1+-4];", ptx_machine.AccessError, "outside of the arrays"),
    ("ld.f32 %f1, [%d1];", ptx_machine.MachineError, "%d1 is read|the compiler did not see which"),
    ("add.f32 %f1, %f1, %f7;", ptx_machine.MachineError, "%f7 is read before it is written"),
    ("ld.param.u64 %d1, [in]; mov.u32 %r4, 2; cp.async.ca.shared.global [%r2], [%d1], 4, %r4;",
     ptx_machine.MachineError, "a copy of a part"),
    ("setp.lt.u32 %p1, %r0, 3; @%p1 cp.async.commit_group;", ptx_machine.MachineError, "not all threads are here"),
]  # fmt: skip


@pytest.mark.parametrize("body, kind, message", FAULTS)
def test_faults_are_seen(body: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        shared(body)


def test_rows_far_apart() -> None:
    """Byte 2^33 + 4 of rows that lie 2^33 bytes apart; half of it, as 32 bits would have it, is no memory."""
    rows, y = np.array([[1, 2], [3, 4]], np.float32), np.zeros(1, np.float32)
    body = "ld.param.u64 %d0, [in]; ld.param.u64 %d1, [out]; mov.u64 %d2, {};"
    body += "add.s64 %d3, %d0, %d2; ld.global.f32 %f1, [%d3+4]; st.global.f32 [%d1], %f1;"
    run(module(IN_OUT, body.format(2**33)), ptx_machine.Rows(rows, 2**33), y, threads=1)
    assert y[0] == 4
    with pytest.raises(ptx_machine.AccessError, match="outside of the arrays"):
        run(module(IN_OUT, body.format(2**32)), ptx_machine.Rows(rows, 2**33), y, threads=1)


def test_an_observer_sees_steps_and_accesses() -> None:
    seen: list[tuple[str, int]] = []
    addresses: list[tuple[str, int, list[int]]] = []

    class Watch(ptx_machine.Observer):
        def step(self, instruction: ptx_machine.Instruction, active: np.ndarray) -> None:
            seen.append((instruction.words[0], int(active.sum())))

        def access(
            self, instruction: ptx_machine.Instruction, space: str, address: np.ndarray, size: int, thread: np.ndarray
        ) -> None:
            addresses.append((space, size, (address - address[0]).tolist()))

    body = f"{THREAD} setp.lt.u32 %p1, %r0, 2; mul.wide.u32 %d2, %r0, 4; add.s64 %d3, %d0, %d2;"
    body += "@%p1 ld.global.f32 %f1, [%d3];"
    run(module(IN_OUT, body), np.zeros(8), np.zeros(1), observer=Watch())
    assert seen[-2:] == [("ld", 2), ("ret", THREADS)]
    assert addresses == [("global", 4, [0, 4])]


@pytest.mark.parametrize("name, message", [("other", "0 kernels called other"), (None, "2 kernels")])
def test_modules_of_several_kernels(name: str | None, message: str) -> None:
    two = module("", "") + module("", "").replace("kernel", "second")
    assert ptx_machine.Program(two, "second").name == "second"
    with pytest.raises(ValueError, match=message):
        ptx_machine.Program(two, name)


def _source() -> str:
    return Path(__file__).read_text()


def test_each_of_its_own_instructions_stands_above() -> None:
    assert all(f"{word}." in _source() or f"{word};" in _source() for word in block.OWN)
