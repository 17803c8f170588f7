"""The figures of a kernel for a terminal."""

from collections.abc import Iterator

from ..cuda.banks import by_kind
from ..cuda.tensor_tiles import TENSOR_TILES
from ..gpus import sm
from .report import Report, Roofline

INDENT = "  "
LABEL = 17
LINES_SHOWN = 3  # of source, of a kind with conflicts


def text(report: Report) -> str:
    """The whole report: labels on the left, each figure with its unit."""
    gpu, peak = report.gpu, report.gpu.flops / 1e12
    head = [
        f"{report.kernel} on {gpu.name}, {sm(gpu.architecture)}",
        f"{INDENT}{report.about}",
        f"{INDENT}{gpu.name}: {gpu.multiprocessors} multiprocessors at {gpu.clock / 1e6:,.0f} MHz,"
        f" {peak:.1f} TFLOP/s float32, {gpu.bandwidth / 1e12:.2f} TB/s",
    ]
    parts = (_resources, _instructions, _accesses, _banks, _roofline)
    return "\n".join([*head, *(line for part in parts for line in ("", *part(report)))])


def _row(label: str, value: str) -> str:
    return f"{INDENT}{label:{LABEL}} {value}"


def _resources(report: Report) -> Iterator[str]:
    code, held = report.code, report.occupancy
    gone = code.stack + code.local
    beside = f"{gone:,} B of local memory beside them" if gone else "nothing spilled, nothing in local memory"
    yield _row("threads", f"{report.threads} a block")
    yield _row("registers", f"{code.registers} a thread, {beside}")
    bytes_ = f"{report.dynamic_shared:,} dynamic, {report.static_shared:,} static"
    yield _row("shared memory", f"{report.shared:,} B a block: {bytes_}")
    if held.blocks:
        warps = f"{held.warps} of {held.most_warps} warps ({held.share:.0%})"
        blocks = "1 block" if held.blocks == 1 else f"{held.blocks} blocks"
        yield _row("occupancy", f"{blocks} a multiprocessor, {warps}, limited by {held.limiter}")
    else:
        yield _row("occupancy", f"0 blocks a multiprocessor, it cannot be launched: too much for {held.limiter}")
    yield _row("", "each alone allows: " + ", ".join(f"{what} {blocks}" for what, blocks in held.limits.items()))


def _instructions(report: Report) -> Iterator[str]:
    whole, loop = len(report.code.instructions), len(report.code.loop)
    mix, inner = report.mix, report.loop_mix

    def cells(of_whole: int, of_loop: int) -> str:
        columns = [(of_whole, whole), (of_loop, loop)] if loop else [(of_whole, whole)]
        return "".join(f"{n:9,} {n / sum_:7.1%}" for n, sum_ in columns)

    yield _row("instructions", f"{'all':>9}" + (f"{'inner loop':>22}" if loop else ""))
    for name in mix:
        if mix[name]:
            yield _row(f"  {name}", cells(mix[name], inner[name]))
    yield _row("  sum", cells(whole, loop))


def _accesses(report: Report) -> Iterator[str]:
    found = ", ".join(f"{name} x {n}" for name, n in report.widths.items())
    yield _row("accesses", found or "none")
    yield _row("barriers", f"{report.barriers}")


def _banks(report: Report) -> Iterator[str]:
    if report.banks is None:
        yield _row("bank conflicts", f"unknown: {report.missing}")
        return
    kinds = by_kind(report.banks)
    yield _row("bank conflicts", "counted while block (0, 0, 0) runs" if kinds else "none: no shared accesses")
    for kind, accesses in kinds.items():
        yield _row(f"  {kind}", f"{accesses.warps:8,} accesses of a warp, {accesses.wavefronts:,} wavefronts,"
                   f" {accesses.ratio:.2f} for each that is needed")  # fmt: skip
        lines = [(of.wavefronts - of.ideal, line, of) for (what, line), of in report.banks.items() if what == kind]
        for more, line, of in sorted(lines, key=lambda row: -row[0])[:LINES_SHOWN]:
            if more:
                yield _row("", f"{'':8} {line or 'no line'}: {of.wavefronts:,} where {of.ideal:,} are needed")
    if report.memory is not None:
        asked, moved = report.memory.asked, report.memory.moved
        share = f", {asked / moved:.0%} of the sectors' bytes" if moved else ""
        yield _row("global memory", f"{asked:,} B are asked for by that block{share}")


def _roofline(report: Report) -> Iterator[str]:
    roof = report.roofline
    if roof is None:
        yield _row("roofline", f"unknown: {report.missing}")
        return
    cost, gpu = roof.cost, roof.gpu
    yield _row("roofline", cost.problem)
    yield _row("", f"{scaled(cost.flops)}FLOP, {scaled(cost.bytes)}B: {roof.intensity:.3g} FLOP/B;"
               f" the ridge of {gpu.name} is at {roof.ridge:.3g} FLOP/B")  # fmt: skip
    what = "computing" if roof.bound == "compute" else "moving data"
    limits = f"at least {scaled(roof.seconds)}s, at most {roof.share_of_peak:.0%} of the {_peak(roof)}"
    yield _row("", f"bound by {what}: {limits}")
    if roof.bound == "compute" and report.issue_share is not None:
        yield _row("", f"the instructions of the inner loop allow {report.issue_share:.0%} of the peak")


def _peak(roof: Roofline) -> str:
    """Which one, and where it is a model's, how high."""
    if roof.cost.precision not in TENSOR_TILES:
        return "float32 peak"
    return f"{scaled(roof.peak)}FLOP/s that a model has of {roof.cost.precision}"


def scaled(value: float) -> str:
    """Three digits and the prefix of a unit.

    >>> scaled(84_213_760) + "B", scaled(3.222e-5) + "s", scaled(512) + "B"
    ('84.2 MB', '32.2 us', '512 B')
    """
    if not value:
        return "0 "
    for prefix, power in (("T", 12), ("G", 9), ("M", 6), ("k", 3), ("", 0), ("m", -3), ("u", -6)):
        if value >= 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value / 1e-9:.3g} n"
