"""What each instruction of the PTX machine's table computes, against Python's own numbers, bit for bit."""

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from ptx_text import RNG, THREADS, module, run

from numba_fftconv.cuda import ptx_machine
from numba_fftconv.cuda.ptx_machine import table
from numba_fftconv.cuda.ptx_machine.program import TYPES

PREFIX = {"pred": "p", "16": "h", "32": "r", "64": "d"}


def register(kind: str, number: int) -> str:
    return f"%{'f' if kind == 'f32' else PREFIX[kind if kind == 'pred' else kind[1:]]}{number}"


def edges(kind: str) -> np.ndarray:
    """Numbers of a type for all threads, those first that something happens at."""
    if kind == "pred":
        return RNG.integers(0, 2, THREADS).astype(np.bool_)
    if kind == "f32":
        special = [0.0, -0.0, 1.0, -1.5, 2.5, -2.5, 0.5, 1e-40, 3e38, -3e38, np.inf, -np.inf, np.nan, 2.0**31, 2.0**33]
        return np.array([*special, *(RNG.standard_normal(THREADS - len(special)) * 100)], np.float32)
    limits = np.iinfo(TYPES[kind])
    special_ = [0, 1, 2, 31, 32, 33, 63, 64, limits.max, limits.min, limits.max - 1, limits.max // 2 + 1]
    some = RNG.integers(limits.min, limits.max, THREADS - len(special_), TYPES[kind], endpoint=True)
    return np.array([*special_, *some.tolist()], TYPES[kind])


def execute(statement: str, sources: list[str], to: str, values: list[np.ndarray]) -> np.ndarray:
    """`statement` of all threads, from registers {0}, {1}, {2} to {d}; predicates travel as 32 bits."""
    names = [register(kind, i) for i, kind in enumerate(sources)]
    result = register(to, 10)
    lines = ["mov.u32 %r19, %tid.x;", "mov.u32 %r18, %ntid.x;"]
    arrays = [value.astype(np.uint32) if value.dtype == np.bool_ else value for value in values]
    out = np.zeros(THREADS, np.uint32 if to == "pred" else TYPES[to])
    for i, (kind, name, array) in enumerate(zip([*sources, to], [*names, None], [*arrays, out], strict=True)):
        moved = {"pred": "u32"}.get(kind, kind).replace("s", "u").replace("b", "u")
        lines += [f"ld.param.u64 %d19, [kernel_param_{i}];", f"mad.wide.u32 %d18, %r19, {array.itemsize}, %d19;"]
        if name:
            lines.append(f"ld.global.{moved} {'%r17' if kind == 'pred' else name}, [%d18];")
            lines += [f"setp.ne.u32 {name}, %r17, 0;"] if kind == "pred" else []
        else:
            lines.append(statement.format(*names, d=result) + ";")
            lines += [f"selp.u32 %r17, 1, 0, {result};"] if kind == "pred" else []
            lines.append(f"st.global.{moved} [%d18], {'%r17' if kind == 'pred' else result};")
    parameters = ", ".join(f".param .u64 kernel_param_{i}" for i in range(len(sources) + 1))
    run(module(parameters, "\n".join(lines)), *arrays, out)
    return out.astype(np.bool_) if to == "pred" else out


def wrapped(value: Any, kind: str) -> Any:
    """A number as a type holds it: integers modulo 2 to the bits, reals rounded to float32."""
    if kind == "pred":
        return np.bool_(value)
    if kind == "f32":
        return np.float32(value)
    bits = 8 * np.dtype(TYPES[kind]).itemsize
    value = int(value) % (1 << bits)
    return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value


def trunc_div(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def real_fma(a: float, b: float, c: float) -> float:
    """Exact, then rounded, where all are finite."""
    if not all(map(math.isfinite, (a, b, c))):
        return float(np.float64(a) * np.float64(b) + np.float64(c))
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    return float(exact) if exact else a * b + c


def clamped(lowest: int, highest: int, rounding: Callable[[float], int]) -> Callable[[float], int]:
    def convert(x: float) -> int:
        if math.isnan(x):
            return 0
        return lowest if x <= lowest else highest if x >= highest else rounding(x)

    return convert


def real(function: Callable[..., float]) -> Callable[..., float]:
    """NumPy's double-precision function: infinities and NaN as IEEE has them."""
    return lambda *values: float(function(*map(np.float64, values)))


def bf16_bits(x: float) -> int:
    """By definition: the nearest of the two neighbours, the even one of two as near; any NaN is one of them."""
    if math.isnan(x):
        return 0x7FFF
    bits = int(np.float32(x).view(np.uint32))
    low, rest = bits >> 16, bits & 0xFFFF
    if math.isnan(x):
        return 0x7FFF
    return low + (rest > 0x8000 or (rest == 0x8000 and low & 1))


def f16_bits(x: float) -> int:
    """As Python packs it."""
    if math.isnan(x):
        return 0x7FFF
    try:
        return int.from_bytes(struct.pack("<e", x), "little")
    except OverflowError:
        return 0x7C00 | (x < 0) << 15


def tf32_bits(x: float) -> int:
    bits = int(np.float32(x).view(np.uint32))
    return (bits >> 13 << 13) + (0x2000 if bits >> 12 & 1 else 0)


def bytes_chosen(low: int, high: int, select: int) -> int:
    """Byte by byte, of a selector of four digits of which the first bit asks for the sign alone."""
    eight = ((high & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF).to_bytes(8, "little")
    digits = [select >> 4 * i & 15 for i in range(4)]
    return int.from_bytes([(255 if eight[d & 7] > 127 else 0) if d > 7 else eight[d] for d in digits], "little")


def move_parts(low: int, high: int) -> int:
    return low & 0xFFFFFFFF | high << 32


SIGNED_32 = clamped(-(2**31), 2**31 - 1, math.trunc)
# statement, types of its sources, type of its result, the same in Python
CASES: list[tuple[str, str, str, Callable[..., Any]]] = [
    *[(f"add.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", t, lambda a, b: a + b) for t in ("s32", "u32", "s64", "u64", "f32")],
    *[(f"sub.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", t, lambda a, b: a - b) for t in ("s32", "u64", "f32")],
    ("add.rn.f32 {d}, {0}, 0fBF800000", "f32", "f32", lambda a: a - 1.0),
    ("add.s32 {d}, {0}, -5", "s32", "s32", lambda a: a - 5),
    ("neg.s32 {d}, {0}", "s32", "s32", lambda a: -a),
    ("neg.f32 {d}, {0}", "f32", "f32", lambda a: -a),
    ("abs.s32 {d}, {0}", "s32", "s32", abs),
    ("abs.f32 {d}, {0}", "f32", "f32", abs),
    *[(f"{word}.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", t, function)
      for word, function in (("min", min), ("max", max)) for t in ("s32", "u32", "s64")],
    ("min.f32 {d}, {0}, {1}", "f32 f32", "f32", real(np.fmin)),
    ("max.f32 {d}, {0}, {1}", "f32 f32", "f32", real(np.fmax)),
    ("mul.f32 {d}, {0}, {1}", "f32 f32", "f32", real(np.multiply)),
    *[(f"mul.lo.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", t, lambda a, b: a * b) for t in ("s32", "u32", "s64", "u16")],
    *[(f"mul.hi.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", t, lambda a, b: a * b >> 32) for t in ("s32", "u32")],
    *[(f"mul.hi.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", t, lambda a, b: a * b >> 64) for t in ("s64", "u64")],
    *[(f"mul.wide.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", wide, lambda a, b: a * b)
      for t, wide in (("s32", "s64"), ("u32", "u64"), ("u16", "u32"))],
    ("mad.lo.s32 {d}, {0}, {1}, {2}", "s32 s32 s32", "s32", lambda a, b, c: a * b + c),
    ("mad.hi.u32 {d}, {0}, {1}, {2}", "u32 u32 u32", "u32", lambda a, b, c: (a * b >> 32) + c),
    ("mad.wide.s32 {d}, {0}, {1}, {2}", "s32 s32 s64", "s64", lambda a, b, c: a * b + c),
    ("fma.rn.f32 {d}, {0}, {1}, {2}", "f32 f32 f32", "f32", real_fma),
    *[(f"div.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", t, trunc_div) for t in ("s32", "u32", "s64")],
    *[(f"rem.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", t, lambda a, b: a - b * trunc_div(a, b)) for t in ("s32", "u64")],
    ("div.rn.f32 {d}, {0}, {1}", "f32 f32", "f32", real(np.divide)),
    *[(f"{word}.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", t, function) for t in ("b32", "b64", "pred")
      for word, function in (("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("xor", lambda a, b: a ^ b))],
    ("not.b32 {d}, {0}", "b32", "b32", lambda a: ~a),
    ("not.pred {d}, {0}", "pred", "pred", lambda a: not a),
    ("shl.b32 {d}, {0}, {1}", "b32 u32", "b32", lambda a, by: a << min(by, 32)),
    ("shl.b64 {d}, {0}, {1}", "b64 u32", "b64", lambda a, by: a << min(by, 64)),
    *[(f"shr.{t} {{d}}, {{0}}, {{1}}", f"{t} u32", t, lambda a, by: a >> min(by, 64))
      for t in ("s32", "u32", "s64", "b64")],
    ("bfi.b32 {d}, {0}, {1}, 4, 12", "b32 b32", "b32", lambda a, b: b & ~0xFFF0 | (a & 0xFFF) << 4),
    ("bfi.b64 {d}, {0}, {1}, 60, 64", "b64 b64", "b64", lambda a, b: b & ~(-1 << 60) | a << 60),
    *[(f"setp.{word}.{t} {{d}}, {{0}}, {{1}}", f"{t} {t}", "pred", function)
      for t in ("s32", "u32", "s64", "f32", "s16") for word, function in (
          ("eq", lambda a, b: a == b), ("lt", lambda a, b: a < b), ("le", lambda a, b: a <= b),
          ("gt", lambda a, b: a > b), ("ge", lambda a, b: a >= b))],
    *[(f"setp.{word}.u32 {{d}}, {{0}}, {{1}}", "u32 u32", "pred", function) for word, function in (
        ("lo", lambda a, b: a < b), ("ls", lambda a, b: a <= b), ("hi", lambda a, b: a > b),
        ("hs", lambda a, b: a >= b))],
    ("setp.ne.s64 {d}, {0}, {1}", "s64 s64", "pred", lambda a, b: a != b),
    ("setp.ne.f32 {d}, {0}, {1}", "f32 f32", "pred", lambda a, b: a < b or a > b),
    *[(f"setp.{word}.f32 {{d}}, {{0}}, {{1}}", "f32 f32", "pred", function) for word, function in (
        ("num", lambda a, b: a == a and b == b), ("nan", lambda a, b: a != a or b != b),
        ("equ", lambda a, b: not (a < b or a > b)), ("neu", lambda a, b: a != b), ("ltu", lambda a, b: not a >= b),
        ("leu", lambda a, b: not a > b), ("gtu", lambda a, b: not a <= b), ("geu", lambda a, b: not a < b))],
    *[(f"setp.lt.{word}.s32 {{d}}, {{0}}, {{1}}, {{2}}", "s32 s32 pred", "pred", function) for word, function in (
        ("and", lambda a, b, p: a < b and p), ("or", lambda a, b, p: a < b or p),
        ("xor", lambda a, b, p: (a < b) != p))],
    *[(f"selp.{t} {{d}}, {{0}}, {{1}}, {{2}}", f"{t} {t} pred", t, lambda a, b, p: a if p else b)
      for t in ("b32", "b64", "f32")],
    *[(f"mov.{t} {{d}}, {{0}}", t, t, lambda a: a) for t in ("u32", "b64", "f32", "pred")],
    ("mov.b64 {d}, {{{0}, {1}}}", "b32 b32", "b64", move_parts),
    ("mov.b64 {{_, {d}}}, {0}", "b64", "b32", lambda a: a >> 32),
    ("cvta.to.global.u64 {d}, {0}", "u64", "u64", lambda a: a),
    *[(f"cvt.{to}.{of} {{d}}, {{0}}", of, to, lambda a: a) for of, to in (
        ("s32", "s64"), ("u32", "u64"), ("u64", "u32"), ("s64", "s32"), ("u32", "u16"), ("s16", "s32"),
        ("u16", "u32"))],
    *[(f"cvt.rn.f32.{of} {{d}}, {{0}}", of, "f32", np.float32) for of in ("s32", "u32", "s64", "u64")],
    ("cvt.rzi.s32.f32 {d}, {0}", "f32", "s32", SIGNED_32),
    ("cvt.rni.s32.f32 {d}, {0}", "f32", "s32", clamped(-(2**31), 2**31 - 1, round)),
    ("cvt.rmi.s64.f32 {d}, {0}", "f32", "s64", clamped(-(2**63), 2**63 - 1, math.floor)),
    ("cvt.rpi.u32.f32 {d}, {0}", "f32", "u32", clamped(0, 2**32 - 1, math.ceil)),
    ("cvt.rmi.f32.f32 {d}, {0}", "f32", "f32", real(np.floor)),
    ("prmt.b32 {d}, {0}, {1}, {2}", "b32 b32 b32", "b32", bytes_chosen),
    ("prmt.b32 {d}, {0}, {1}, 0xF610", "b32 b32", "b32", lambda a, b: bytes_chosen(a, b, 0xF610)),
    ("cvt.rna.tf32.f32 {d}, {0}", "f32", "b32", tf32_bits),
    ("cvt.rn.bf16.f32 {d}, {0}", "f32", "b16", bf16_bits),
    ("cvt.f32.f16 {d}, {0}", "b16", "f32", lambda a: float(np.uint16(a).view(np.float16))),
    ("cvt.rn.f16.f32 {d}, {0}", "f32", "b16", f16_bits),
    ("cvt.rn.bf16x2.f32 {d}, {0}, {1}", "f32 f32", "b32", lambda a, b: bf16_bits(a) << 16 | bf16_bits(b)),
    ("copysign.f32 {d}, {0}, {1}", "f32 f32", "f32", lambda sign, a: math.copysign(a, sign)),
    *[(f"{word} {{d}}, {{0}}", "f32", "f32", real(function)) for word, function in (
        ("rcp.rn.f32", np.reciprocal), ("sqrt.rn.f32", np.sqrt), ("rsqrt.approx.f32", lambda x: 1 / np.sqrt(x)),
        ("ex2.approx.ftz.f32", np.exp2), ("lg2.approx.f32", np.log2), ("sin.approx.f32", np.sin),
        ("cos.approx.f32", np.cos), ("tanh.approx.f32", np.tanh))],
]  # fmt: skip


@pytest.mark.parametrize("statement, sources, to, meaning", CASES, ids=[case[0].split(" ")[0] for case in CASES])
def test_instruction(statement: str, sources: str, to: str, meaning: Callable[..., Any]) -> None:
    """Bit for bit, but for which NaN; 0 divides nothing, of tf32 NaN is not looked at."""
    kinds = sources.split()
    values = [edges(kind) for kind in kinds]
    if len(kinds) > 1 and kinds[1] != "pred":
        values[1] = RNG.permutation(values[1])
    if statement.startswith(("div", "rem")) and kinds[0] != "f32":
        values[1] = np.where(values[1] == 0, values[1].dtype.type(3), values[1])
    if "tf32" in statement:
        values = [np.where(np.isnan(value), np.float32(1.2345), value) for value in values]
    got = execute(statement, kinds, to, values)
    with np.errstate(all="ignore"):
        expected = [wrapped(meaning(*numbers), to) for numbers in zip(*(v.tolist() for v in values), strict=True)]
    np.testing.assert_array_equal(got, np.array(expected, got.dtype))


def fragments(matrix: np.ndarray, places: list[Callable[[int, int], tuple[int, int]]]) -> list[np.ndarray]:
    """Element (row, column) of a matrix that each lane holds, register by register."""
    return [np.array([matrix[place(lane // 4, lane % 4)] for lane in range(32)], matrix.dtype) for place in places]


@pytest.mark.parametrize("half", [False, True], ids=["tf32", "bf16"])
def test_mma(half: bool) -> None:
    """Small whole numbers, so that nothing rounds; fragments laid out by the tables of the PTX manual."""
    depth = 16 if half else 8
    A, B = RNG.integers(-8, 8, (16, depth)).astype(np.float32), RNG.integers(-8, 8, (depth, 8)).astype(np.float32)
    C = RNG.integers(-8, 8, (16, 8)).astype(np.float32)
    if half:
        low = [lambda g, t, r=r, c=c: (g + r, 2 * t + c) for c in (0, 8) for r in (0, 8)]
        high = [lambda g, t, r=r, c=c: (g + r, 2 * t + 1 + c) for c in (0, 8) for r in (0, 8)]
        pairs = zip(fragments(A, low), fragments(A, high), strict=True)
        a = [x.view(np.uint32) >> 16 | y.view(np.uint32) & 0xFFFF0000 for x, y in pairs]
        low = [lambda g, t, r=r: (2 * t + r, g) for r in (0, 8)]
        high = [lambda g, t, r=r: (2 * t + 1 + r, g) for r in (0, 8)]
        b = [x.view(np.uint32) >> 16 | y.view(np.uint32) & 0xFFFF0000
             for x, y in zip(fragments(B, low), fragments(B, high), strict=True)]  # fmt: skip
    else:
        a = fragments(A, [lambda g, t, r=r, c=c: (g + r, t + c) for c in (0, 4) for r in (0, 8)])
        b = fragments(B, [lambda g, t, r=r: (t + r, g) for r in (0, 4)])
    places = [lambda g, t, r=r, c=c: (g + r, 2 * t + c) for r in (0, 8) for c in (0, 1)]
    c = fragments(C, places)
    inputs = [np.ascontiguousarray(x).view(np.uint32) for x in (*a, *b, *c)]
    memory, out = np.stack(inputs), np.zeros((4, 32), np.float32)
    loads = [f"ld.global.u32 %r{i}, [%d1+{i * 128}];" for i in range(6)]
    loads += [f"ld.global.f32 %f{i}, [%d1+{(6 + i) * 128}];" for i in range(4)]
    kind = "m16n8k16.row.col.f32.bf16.bf16.f32" if half else "m16n8k8.row.col.f32.tf32.tf32.f32"
    body = [
        "mov.u32 %r19, %laneid;", "ld.param.u64 %d0, [in];", "mad.wide.u32 %d1, %r19, 4, %d0;", *loads,
        f"mma.sync.aligned.{kind} {{%f4, %f5, %f6, %f7}}, {{%r0, %r1, %r2, %r3}}, {{%r4, %r5}}, "
        "{%f0, %f1, %f2, %f3};",
        "ld.param.u64 %d0, [out];", "mad.wide.u32 %d1, %r19, 4, %d0;",
        *[f"st.global.f32 [%d1+{i * 128}], %f{4 + i};" for i in range(4)],
    ]  # fmt: skip
    run(module(".param .u64 in, .param .u64 out", "\n".join(body)), memory, out, threads=32)
    np.testing.assert_array_equal(out, fragments(A @ B + C, places))
    halved = module(".param .u64 in, .param .u64 out", "\n".join(body).replace("mma.sync", "@%p1 mma.sync"))
    halved = halved.replace("mov.u32 %r19, %laneid;", "mov.u32 %r19, %laneid; setp.lt.u32 %p1, %r19, 16;")
    with pytest.raises(ptx_machine.MachineError, match="some threads of a warp are elsewhere"):
        run(halved, memory, out, threads=32)


def test_every_instruction_has_a_test() -> None:
    """Of the table a case, with every comparison."""
    assert {case[0].split(".")[0] for case in CASES} | {"mma"} == set(table.TABLE)
    assert {case[0].split(".")[1] for case in CASES if case[0].startswith("setp")} == set(table.COMPARE)
