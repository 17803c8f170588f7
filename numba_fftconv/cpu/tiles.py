"""What a product sums in registers: codelets for tiles of its results (product.py).

    multiply     Y[f] += sum_i Z[f,i] conj W[i],   Y[-f] += sum_i Z[-f,i] W[i]        some outputs, L lanes
    correlate    sum_m conj D[f,m] X[f,m] + conj(conj D[-f,m] X[-f,m])                2 L pairs of planes

How many outputs a tile of `multiply` has follows from the registers (registers.py). Where one holds a whole line, lines
times re W and lines times im W are summed apart, 4 vectors an output: each step of the contraction takes 2 vector
loads, and by output 2 broadcasts of W and 4 fused multiply-adds, and only the finished sums are turned, Y[f] = S - iS',
Y[-f] = S + iS'. Elsewhere re and im are vectors of their own, so that no line is ever turned: 4 half lines an output,
and 8 fused multiply-adds a step. The bits differ between these two kinds of machines; on one they do not depend on the
tile. `correlate` goes through its pairs by as many as registers hold, in the same two ways.

Example: 3 outputs on AVX2: 12 registers of sums, 4 loads, 12 broadcasts and 24 multiply-adds a step.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from .registers import tile
from .vector import Emitter, Line, Vector

OUTPUTS, PAIRS, APART = tile()


def accumulators(emit: Emitter, count: int, kind: Any = None) -> list[Any]:
    """Vectors of sums, whole ones or of another kind, zero at first, that LLVM keeps in registers."""
    kind = emit.whole if kind is None else kind
    found = [cgutils.alloca_once(emit.builder, kind) for _ in range(count)]
    for at in found:
        emit.builder.store(ir.Constant(kind, [0.0] * kind.count), at)
    return found


def total(emit: Emitter, at: Any) -> Vector:
    return Vector(emit.builder, emit.builder.load(at))


def accumulate(emit: Emitter, at: Any, product: Vector, sign: int = 1) -> None:
    held = total(emit, at)
    emit.builder.store((held + product if sign > 0 else held - product).value, at)


def load_halves(emit: Emitter, data: Any, at: Any) -> list[Vector]:
    """Real and imaginary parts of a line."""
    return [emit.load_half(data, emit.offset(at, part)) for part in (0, emit.lanes)]


class SumsApart:
    """An output at f and -f: sums of lines times re W, and of lines times im W."""

    def __init__(self, emit: Emitter) -> None:
        self.emit, self.held = emit, accumulators(emit, 4)

    def add(self, plus: Vector, minus: Vector, re: Vector, im: Vector) -> None:
        for place, product in zip(self.held, (plus * re, plus * im, minus * re, minus * im), strict=True):
            accumulate(self.emit, place, product)

    def lines(self) -> list[Line]:
        plus_re, plus_im, minus_re, minus_im = (Line(total(self.emit, at)) for at in self.held)
        return [plus_re + plus_im * -1j, minus_re + minus_im * 1j]


class Sums:
    """An output at f and -f: sums of z conj W and of z W, real and imaginary parts in vectors of their own."""

    def __init__(self, emit: Emitter) -> None:
        self.emit, self.held = emit, accumulators(emit, 4, emit.half)

    def add(self, sign: int, z: Sequence[Vector], w: Sequence[Vector]) -> None:
        """z conj W where the sign is -1, to f; z W where it is 1, to -f."""
        re, im = self.held[:2] if sign < 0 else self.held[2:]
        accumulate(self.emit, re, z[0] * w[0])
        accumulate(self.emit, im, z[1] * w[0])
        accumulate(self.emit, re, z[1] * w[1], -sign)
        accumulate(self.emit, im, z[0] * w[1], sign)

    def lines(self) -> list[Line]:
        plus_re, plus_im, minus_re, minus_im = (total(self.emit, at).value for at in self.held)
        return [Line(self.emit.join(plus_re, plus_im)), Line(self.emit.join(minus_re, minus_im))]


class PairApart:
    """A pair of planes: d x summed, and d' x, where d' has its halves exchanged."""

    def __init__(self, emit: Emitter) -> None:
        self.emit, self.held = emit, accumulators(emit, 2)

    def add(self, sign: int, x: tuple[Any, Any], d: tuple[Any, Any]) -> None:
        """conj d x where the sign is 1, its conjugate where it is -1; of lines by their data and place."""
        a, b = self.emit.load(*x), self.emit.load(*d)
        accumulate(self.emit, self.held[0], a * b)
        accumulate(self.emit, self.held[1], a * b.swapped(), sign)

    def total(self) -> Vector:
        """By lane the real parts below, the imaginary parts above."""
        return self.emit.halves_summed(*(total(self.emit, at) for at in self.held))


class PairSums:
    """A pair of planes: real and imaginary part summed in vectors of their own."""

    def __init__(self, emit: Emitter) -> None:
        self.emit, self.held = emit, accumulators(emit, 2, emit.half)

    def add(self, sign: int, x: tuple[Any, Any], d: tuple[Any, Any]) -> None:
        """conj d x where the sign is 1, its conjugate where it is -1; of lines by their data and place."""
        (x_re, x_im), (d_re, d_im) = load_halves(self.emit, *x), load_halves(self.emit, *d)
        re, im = self.held
        accumulate(self.emit, re, x_re * d_re)
        accumulate(self.emit, im, x_im * d_re, sign)
        accumulate(self.emit, re, x_im * d_im)
        accumulate(self.emit, im, x_re * d_im, -sign)

    def total(self) -> Vector:
        """By lane the real parts below, the imaginary parts above."""
        return self.emit.join(*(total(self.emit, at).value for at in self.held))


def add_step(
    emit: Emitter, sums: list[Any], data: Any, places: Sequence[Any], w: tuple[Any, Any], across: Any
) -> None:
    """One step of the contraction: lines at f and -f, W of each output `across` from the one before.

    Of half lines first all outputs at f, then all at -f.
    """
    weights, first = w

    def load_weight(load: Any, o: int) -> list[Vector]:
        at = emit.offset(first, o, across)
        return [load(weights, emit.offset(at, part)) for part in (0, emit.lanes)]

    if APART:
        both = [emit.load(data, place) for place in places]
        for o, held in enumerate(sums):
            held.add(*both, *load_weight(emit.load_splat, o))
        return
    for sign, place in zip((-1, 1), places, strict=True):
        z = load_halves(emit, data, place)
        for o, held in enumerate(sums):
            held.add(sign, z, load_weight(emit.load_half_splat, o))
        first = emit.unknown(first)  # else the broadcasts of f, kept for -f, would take the registers of sums


def put(emit: Emitter, fresh: Any, lines: list[Line], data: Any, places: list[Any]) -> None:
    """Writes lines to their places, or where not `fresh` adds them to what is there; two equal lines may share one."""
    with emit.builder.if_else(fresh) as (start, resume):
        with start:
            for line, place in zip(lines, places, strict=True):
                emit.store(line, data, place)
        with resume:
            sums = [emit.load_line(data, place) + line for line, place in zip(lines, places, strict=True)]
            for line, place in zip(sums, places, strict=True):
                emit.store(line, data, place)


def sum_products(
    emit: Emitter, outputs: int, x: Sequence[Any], w: Sequence[Any], y: Sequence[Any], span: Sequence[Any], ahead: Any
) -> None:
    """The loop of `multiply`: `x` and `y` are data and the places at f and -f in them, `w` the weights, where the first
    lies, and across, step, leap; `span` how many steps, and whether they are the first; each step asks for one of the
    lines at `ahead`."""
    steps, fresh = span
    (images, *x_places), (data, *y_places) = x, y
    weights, first, across, step, leap = w
    builder, n, line = emit.builder, emit.lanes, emit.count
    sums = [(SumsApart if APART else Sums)(emit) for _ in range(outputs)]
    with cgutils.for_range(builder, steps) as loop:
        block, lane = (f(loop.index, emit.const(n)) for f in (builder.udiv, builder.urem))
        at = builder.add(first, builder.add(builder.mul(block, leap), builder.mul(lane, step)))
        here = builder.mul(loop.index, emit.const(line))
        emit.prefetch(ahead, here, write=False)
        add_step(emit, sums, images, [builder.add(base, here) for base in x_places], (weights, at), across)
    lines, places = [], []
    for o, held in enumerate(sums):
        lines += held.lines()
        places += [emit.offset(at, o * line) for at in y_places]
    put(emit, fresh, lines, data, places)


@intrinsic(prefer_literal=True)
def multiply(typing_context, outputs, first, steps, fresh, images, x, x_minus, filters, w, across, step, leap, space, y, y_minus, ahead):  # type: ignore[no-untyped-def]  # noqa: E501
    """Adds `steps` products to `outputs` lines from number `first` on at y (times conj W) and at y_minus (times W);
    `fresh` starts at zero.

    Output o meets W at w + o across + (i mod L) step + (i div L) leap in step i, which asks for line i from the address
    `ahead` on.
    """
    index = types.intp
    of_sums = outputs, index, index, types.boolean
    signature = types.void(*of_sums, images, *[index] * 2, filters, *[index] * 4, space, *[index] * 3)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        emit = Emitter(context, builder, space.dtype)
        x = emit.data(images, args[4]), *args[5:7]
        w = emit.data(filters, args[7]), emit.offset(args[8], args[1], args[9]), *args[9:12]
        y = emit.data(space, args[12]), *[emit.offset(at, args[1], emit.const(emit.count)) for at in args[13:15]]
        ahead = builder.inttoptr(args[15], emit.scalar.as_pointer())
        sum_products(emit, outputs.literal_value, x, w, y, args[2:4], ahead)
        return context.get_dummy_value()

    return signature, codegen


def sum_pairs(
    emit: Emitter, pairs: Sequence[Any], of_x: Sequence[Any], of_d: Sequence[Any], steps: Any
) -> list[Vector]:
    """The loop of `correlate`: sums for some pairs of planes, whose lines lie at (x, d) from the beginning of a bin. Of
    either spectrum its data, where that is at f, at -f, and how far from there to the next lane block."""
    (images, x_plus, x_minus, x_block), (gradients, d_plus, d_minus, d_block) = of_x, of_d
    held = [(PairApart if APART else PairSums)(emit) for _ in pairs]
    with cgutils.for_range(emit.builder, steps) as loop:
        for sign, x_bin, d_bin in ((1, x_plus, d_plus), (-1, x_minus, d_minus)):
            x_here, d_here = emit.offset(x_bin, loop.index, x_block), emit.offset(d_bin, loop.index, d_block)
            for sums, (x, d) in zip(held, pairs, strict=True):
                sums.add(sign, (images, emit.builder.add(x_here, x)), (gradients, emit.builder.add(d_here, d)))
    return [sums.total() for sums in held]


@intrinsic(prefer_literal=True)
def correlate(typing_context, shared, fresh, images, x, x_minus, x_block, filters, d, d_minus, d_block, steps, x_lines, d_lines, space, y, y_minus):  # type: ignore[no-untyped-def]  # noqa: E501
    """Adds H1 + i H2 to the line at y and conj H1 + i conj H2 to that at y_minus; `fresh` starts at zero.

    H1 and H2 are 2 L sums over `steps` lane blocks of conj D[f] X[f] + conj(conj D[-f] X[-f]), sum q for the planes at
    x_lines[q] and d_lines[q]; where `shared`, the L of either are of neighbours of x and of one d.
    """
    index = types.intp
    spectra = images, *[index] * 3, filters, *[index] * 3
    signature = types.void(shared, types.boolean, *spectra, index, x_lines, d_lines, space, index, index)

    def codegen(context: Any, builder: Any, signature: Signature, args: Any) -> Any:
        emit = Emitter(context, builder, space.dtype)
        n, line = emit.lanes, emit.count
        of_x, of_d = (emit.data(images, args[2]), *args[3:6]), (emit.data(filters, args[6]), *args[7:10])
        x_ends, d_ends = emit.data(x_lines, args[11]), emit.data(d_lines, args[12])

        def end(ends: Any, q: int) -> Any:
            return builder.load(builder.gep(ends, [emit.const(q)]))

        def sums(first: int) -> Line:
            """L sums, from number `first` on."""
            if shared.literal_value:
                x_first, d_first = end(x_ends, first), end(d_ends, first)
                places = [(emit.offset(x_first, q * line), d_first) for q in range(n)]
            else:
                places = [(end(x_ends, q), end(d_ends, q)) for q in range(first, first + n)]
            both: list[Vector] = []
            for q in range(0, n, PAIRS):
                both += sum_pairs(emit, places[q : q + PAIRS], of_x, of_d, args[10])
            return Line(emit.sum_lanes(both))

        first, second = sums(0), sums(n)
        lines = [first + second * 1j, first.conj() + second.conj() * 1j]
        put(emit, args[1], lines, emit.data(space, args[13]), [args[14], args[15]])
        return context.get_dummy_value()

    return signature, codegen
