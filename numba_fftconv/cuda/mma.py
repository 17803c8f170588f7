"""The inner product on tensor cores: a warp's WM x WN sums by mma.sync, in tf32 or bf16, one product or three.

A complex product is a real one of twice the depth. A lies as it is, real and imaginary parts as two steps; B in two
forms, whose signs take care of conjugation (sa, sb = -1 of the operand that is conjugated, else 1):

    re:  (ar, ai) . (br, -sa sb bi)        im:  (ar, ai) . (sb bi, sa br)

so one part of one form is negated. A slab is 8 complex steps. Lane l = 4g + t of a warp holds, of fragments of 16 x 8
by 8 x 8 (tf32; those of bf16 are twice as deep, both s in one),

    A   rows g and g + 8, steps t (real) and t + 4 (imaginary), of the complex step 2t + s, s = 0 and 1
    B   column g, the same steps
    Y   rows g and g + 8, columns 2t and 2t + 1

and reads them from shared memory by loads of 128 bits, without ldmatrix or shuffles: along the contraction a load has
steps 2t and 2t + 1 of a row, across it rows 2g and 2g + 1 at one step, which then are rows g and g + 8 of a fragment. A
lane's sums are neighbours in pairs, and stored in 128 bits.

    tf32     x * (1 + 2^-11 / 1.5), whose low 13 bits the tensor core drops: to nearest but for a hair, NaN stays NaN
    tf32x3   hi = x + 0x1000 as an integer, likewise; lo = x - hi, whose low bits are dropped too
    bf16x3   hi, lo by cvt.rn.bf16x2

(The low bits of hi are left to be dropped: the compiler would see that a mask changes nothing, and move x about.)
Tensor cores are reported to round each of their sums towards zero, an error that grows with the depth. So the sums of
three products begin anew in each slab and are added in float32; of one product, tf32's own error is larger. Either way
slabs are added in their order and each as a whole: a depth cut at a multiple of 8 gives the same bits.

NaN goes where it would in float32, and in tf32 so does infinity; of three products, lo of an infinity is NaN. Numbers
within 2^-12 (tf32) or 2^-9 (bf16) of the greatest count as infinite.

Example: 64x64 by warps of 32x16, 8 of them in 2 x 4. Thread 37 is lane 5 of warp 1, g = t = 1: forward it reads rows 1,
9, 17, 25 of A and 17, 25 of B at steps 2 and 3, and owns rows 1, 9, 17, 25 and columns 18, 19, 26, 27 of the block.

Sources: NVIDIA, Parallel Thread Execution ISA, "Matrix Fragments for mma.m16n8k8" and "mma.m16n8k16"; Ootomo, Yokota,
Recovering single precision accuracy from Tensor Cores (IJHPCA 36, 2022) for the fresh sums.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numba import cuda

from .accumulators import Inner
from .tensor_tiles import STEPS, TensorConfig
from .toolchain import SIMULATED, device_function

i32 = np.int32
Operand = tuple[int, int, bool]  # fragments, pitch, k-major
# Which parts of A and of B (0 is hi) are multiplied, in this order. The least first is best for the last bits, which
# bf16x3 does not have: its order is the one in which the sums of all passes fit into 128 registers.
TERMS = {"tf32": ((0, 0),), "tf32x3": ((1, 0), (0, 1), (0, 0)), "bf16x3": ((0, 0), (0, 1), (1, 0))}


def row_offsets(fragments: int, kmajor: bool) -> tuple[int, ...]:
    """A lane's rows from its first: of each fragment g and g + 8, or 2g and 2g + 1."""
    return tuple(16 * m + high * (8 if kmajor else 1) for m in range(fragments) for high in range(2))


def column_offsets(fragments: int, kmajor: bool) -> tuple[int, ...]:
    """A lane's columns from its first: of each fragment two neighbours, or of each two fragments four."""
    return tuple(8 * n + j if kmajor else n // 2 * 16 + n % 2 * 2 + j for n in range(fragments) for j in range(2))


@cache
def mma(config: TensorConfig, a_kmajor: bool, b_kmajor: bool, conj_a: bool, conj_b: bool) -> Inner:
    """The inner product of a tile for operands of these forms."""
    down, across = config.fragments
    WM, WN, WARPS = i32(config.WM), i32(config.WN), i32(config.warps_across)
    a, b = (down, config.pitch(config.BM, a_kmajor), a_kmajor), (across, config.pitch(config.BN, b_kmajor), b_kmajor)

    @device_function
    def place(thread: Any) -> tuple[Any, Any, Any, Any, Any]:
        warp, g, t = i32(thread >> i32(5)), i32((thread >> i32(2)) & i32(7)), i32(thread & i32(3))
        row, column = i32(warp // WARPS * WM), i32(warp % WARPS * WN)
        of_a = i32(row + (g if a_kmajor else i32(2) * g))
        of_b = i32(column + (g if b_kmajor else i32(2) * g))
        return of_a, of_b, i32(i32(2) * t), of_a, i32(column + (i32(2) * t if b_kmajor else i32(4) * t))

    multiply = slab(config.precision, a, b, conj_a, conj_b)
    return Inner(place, row_offsets(down, a_kmajor), column_offsets(across, b_kmajor), multiply)


if SIMULATED:

    def rounded(x: Any, precision: str) -> Any:
        """Float32 to the nearest tf32 or bf16."""
        bits = x.view(np.uint32).astype(np.uint64)
        if precision == "bf16x3":
            near = bits + np.uint64(0x7FFF) + (bits >> np.uint64(16) & np.uint64(1)) & np.uint64(0xFFFF0000)
        else:
            near = bits + np.uint64(0x1000) & np.uint64(0xFFFFE000)
        return np.where(np.isfinite(x), near.astype(np.uint32).view(np.float32), x)

    @cache
    def slab(precision: str, a: Operand, b: Operand, conj_a: bool, conj_b: bool) -> Callable[..., Any]:
        """slab(acc, s, ia, ib): acc + op(A) op(B) over a slab, for operands (fragments, pitch, k-major).

        The tensor core adds up what other lanes hold; here a lane computes its own sums from shared memory.
        """
        (_, pitch_a, a_kmajor), (_, pitch_b, b_kmajor) = a, b
        rows, columns = row_offsets(a[0], a_kmajor), column_offsets(b[0], b_kmajor)
        k = np.arange(STEPS)

        def parts(z: Any) -> list[Any]:
            """hi and lo of complex numbers, as complex128."""
            x = z.view(np.float32)
            high = rounded(x, precision)
            both = [high, rounded(x - high, precision)]
            return [part.view(np.complex64).astype(np.complex128) for part in both]

        def multiply(acc: Any, s: Any, ia: Any, ib: Any) -> Any:
            g, t = divmod(int(cuda.laneid), 4)
            ia = int(ia) - (2 * t if a_kmajor else 2 * t * pitch_a)  # step 0 of its first row
            ib = int(ib) - (2 * t + g * pitch_b if b_kmajor else 2 * t * pitch_b + 2 * g)  # of its warp's first column
            ib += 2 * t * pitch_b if b_kmajor else 4 * t  # of its own
            A = np.array([s[ia + (row * pitch_a + k if a_kmajor else k * pitch_a + row)] for row in rows])
            B = np.array([s[ib + (column * pitch_b + k if b_kmajor else k * pitch_b + column)] for column in columns])
            A, B = A.conj() if conj_a else A, B.conj() if conj_b else B
            with np.errstate(invalid="ignore", over="ignore"):
                of_a, of_b = parts(A), parts(B)
                total = sum(of_a[i] @ of_b[j].T for i, j in TERMS[precision])
                sums = np.array(acc, np.float32).reshape(len(rows), len(columns), 2)
                sums[..., 0] += total.real
                sums[..., 1] += total.imag
            return tuple(sums.reshape(-1))

        return multiply

else:
    from llvmlite import ir

    from .emit import FLOAT, I32, asm, at, load, on_slab

    _FOUR = ir.LiteralStructType([FLOAT] * 4)
    _SHAPES = {"tf32": "m16n8k8", "tf32x3": "m16n8k8", "bf16x3": "m16n8k16"}
    _NEAREST = float(np.float32(1 + 2**-11 / 1.5))

    def _mma(builder: Any, precision: str, a: list[Any], b: list[Any], c: list[Any]) -> list[Any]:
        """One mma of a warp: c + a b."""
        kind = precision.removesuffix("x3")
        text = (
            f"mma.sync.aligned.{_SHAPES[precision]}.row.col.f32.{kind}.{kind}.f32"
            " {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
        )
        done = asm(builder, text, _FOUR, [*a, *b, *c], "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f")
        return [builder.extract_value(done, i) for i in range(4)]

    def _bits(builder: Any, x: Any) -> Any:
        return builder.bitcast(x, I32)

    def _split(builder: Any, x: Any, negate: bool = False) -> tuple[Any, Any]:
        """hi and lo of a float32 or of its negative as tf32 in 32 bits, of which 13 are for the tensor core to drop."""
        near = builder.add(_bits(builder, x), I32(0x1000))
        high = builder.bitcast(builder.and_(near, I32(0xFFFFE000)), FLOAT)
        if not negate:
            return near, _bits(builder, builder.fsub(x, high))
        return builder.add(_bits(builder, x), I32(0x80001000)), _bits(builder, builder.fsub(high, x))

    def _packed(builder: Any, low: Any, high: Any) -> Any:
        """Two float32 as bf16 in one register."""
        return asm(builder, "cvt.rn.bf16x2.f32 $0, $2, $1;", I32, [low, high], "=r,f,f")

    def _packed_parts(builder: Any, re: Any, im: Any) -> list[Any]:
        """hi and lo of a complex number, each (re, im) as bf16 in one register."""
        high = _packed(builder, re, im)
        of_re = builder.bitcast(builder.shl(high, I32(16)), FLOAT)
        of_im = builder.bitcast(builder.and_(high, I32(0xFFFF0000)), FLOAT)
        return [high, _packed(builder, builder.fsub(re, of_re), builder.fsub(im, of_im))]

    class _Fragments:
        """What the lane feeds to mma, by precision; a complex number is (re, im), two float32.

        Each row and column is two of them, at steps 2t and 2t + 1. They become, for every mma of the slab, the
        registers of each part (hi, lo), of B in the forms (re, im).
        """

        def __init__(self, builder: Any, precision: str, conj_a: bool, conj_b: bool) -> None:
            self.builder, self.precision = builder, precision
            self.turns_re = conj_a  # im: (bi, -br), else (-+ bi, br), where one of both forms has a sign
            self.re_negative = conj_a == conj_b
            self.im_negative = conj_b

        def a(self, g: list[list[Any]], h: list[list[Any]]) -> list[list[list[Any]]]:
            """[mma][part][register] of rows g and g + 8"""
            if self.precision == "bf16x3":
                split = [_packed_parts(self.builder, *z) for z in (g[0], h[0], g[1], h[1])]
                return [[[z[part] for z in split] for part in range(2)]]
            steps = [[self._real(x) for x in (z[0], w[0], z[1], w[1])] for z, w in zip(g, h, strict=True)]
            return [[list(part) for part in zip(*values, strict=True)] for values in steps]

        def b(self, numbers: list[list[Any]]) -> list[list[tuple[list[Any], list[Any]]]]:
            """[mma][part](re form, im form)[register]"""
            if self.precision == "bf16x3":
                split = [_packed_parts(self.builder, *z) for z in numbers]
                return [[self._packed_forms([z[part] for z in split]) for part in range(2)]]
            return [self._forms(*z) for z in numbers]

        def _real(self, x: Any, negate: bool = False) -> list[Any]:
            """The parts of a float32, or of its negative."""
            if self.precision == "tf32":
                factor = FLOAT(-_NEAREST if negate else _NEAREST)
                return [_bits(self.builder, self.builder.fmul(x, factor))]
            return list(_split(self.builder, x, negate))

        def _forms(self, re: Any, im: Any) -> list[tuple[list[Any], list[Any]]]:
            re_parts, im_parts = self._real(re), self._real(im)
            negative = self._real(re if self.turns_re else im, negate=True)
            forms = []
            for r, i, minus in zip(re_parts, im_parts, negative, strict=True):
                of_re = [r, minus if self.re_negative else i]
                of_im = [i, minus] if self.turns_re else [minus if self.im_negative else i, r]
                forms.append((of_re, of_im))
            return forms

        def _packed_forms(self, numbers: list[Any]) -> tuple[list[Any], list[Any]]:
            """Of (re, im) in one register; an exclusive or changes the sign of either half."""
            low, high = 0x8000, 0x80000000
            re = [self._signed(z, high if self.re_negative else 0) for z in numbers]
            turned = [asm(self.builder, "prmt.b32 $0, $1, $1, 0x1032;", I32, [z], "=r,r") for z in numbers]
            return re, [self._signed(z, high if self.turns_re else low if self.im_negative else 0) for z in turned]

        def _signed(self, z: Any, signs: int) -> Any:
            return self.builder.xor(z, I32(signs)) if signs else z

    @cache
    def slab(precision: str, a: Operand, b: Operand, conj_a: bool, conj_b: bool) -> Any:
        """slab(acc, s, ia, ib): acc + op(A) op(B) over a slab, for operands (fragments, pitch, k-major)."""
        (down, pitch_a, a_kmajor), (across, pitch_b, b_kmajor) = a, b
        fresh = precision != "tf32"  # whether sums begin anew in each slab

        def numbers_of(builder: Any, pointer: Any, eights: int, pitch: int, kmajor: bool) -> Iterator[list[Any]]:
            """A lane's complex numbers of every eight rows, at steps 2t and 2t + 1, loaded when they are asked for."""
            for i in range(eights):
                if kmajor:  # two steps of a row
                    v = load(builder, at(builder, pointer, 8 * i * pitch), 4)
                    yield [v[:2], v[2:]]
                elif i % 2 == 0:  # two rows at one step
                    v, w = (load(builder, at(builder, pointer, 8 * i + s * pitch), 4) for s in range(2))
                    yield [v[:2], w[:2]]
                    yield [v[2:], w[2:]]

        def places(m: int, n: int, part: int) -> list[int]:
            """Where the four sums of a fragment stand among all: rows g, g + 8, columns 2t, 2t + 1 of each."""
            columns = [2 * n, 2 * n + 1] if b_kmajor else [n // 2 * 4 + n % 2, n // 2 * 4 + n % 2 + 2]
            return [2 * ((2 * m + high) * 2 * across + j) + part for high in range(2) for j in columns]

        def write(builder: Any, sums: list[Any], at_a: Any, at_b: Any) -> None:
            fragments = _Fragments(builder, precision, conj_a, conj_b)
            rows = list(numbers_of(builder, at_a, 2 * down, pitch_a, a_kmajor))
            of_a = [fragments.a(g, h) for g, h in zip(rows[::2], rows[1::2], strict=True)]
            columns = numbers_of(builder, at_b, across, pitch_b, b_kmajor)
            for n, column in enumerate(columns):
                of_b = fragments.b(column)
                own = {(m, part): places(m, n, part) for m in range(down) for part in range(2)}
                added = {key: [FLOAT(0.0) if fresh else sums[i] for i in own[key]] for key in own}
                for step in range(len(of_b)):
                    for i, j in TERMS[precision]:
                        for m, part in own:
                            operands = of_a[m][step][i], of_b[step][j][part]
                            added[m, part] = _mma(builder, precision, *operands, added[m, part])
                for key, where in own.items():
                    for i, value in zip(where, added[key], strict=True):
                        sums[i] = builder.fadd(sums[i], value) if fresh else value

        return on_slab(write)
