"""The command line of inspect: its options, and the errors of a caller in one line each.

For example:

    python -m numba_fftconv inspect product --tile 128x64 --pass weight_grad --arch sm_80
    python -m numba_fftconv inspect product --precision tf32x3
    python -m numba_fftconv inspect transform --fft-size 64 --sass
    python -m numba_fftconv inspect inverse-rows --fft-size 32x256
    python -m numba_fftconv inspect mine:scale --signature "float32[::1], float32" --launch "zeros(4096) 0.5"
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..cache import no_collections
from ..errors import FFTConvError, InvalidOptionError, UnsupportedError

TRANSFORMS = ("transform", "inverse")
LIBRARY = ("product", *TRANSFORMS, "transform-columns", "transform-rows", "inverse-rows", "inverse-columns")
# Options that are not for every kernel: for which, where 'custom' stands for those of the caller.
FOR = {
    "fft_size": LIBRARY, "channels": LIBRARY, "planes": TRANSFORMS,
    "pass_name": LIBRARY[:1], "tile": LIBRARY[:1], "vec": LIBRARY[:1], "precision": LIBRARY[:1],
    "signature": ("custom",), "threads": ("custom",), "shared": ("custom",), "launch": ("custom",), "grid": ("custom",),
}  # fmt: skip
MOST_THREADS, MOST_BLOCKS = 1024, 2**31


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    command = commands.add_parser(
        "inspect",
        help="say what a kernel is made of: registers, occupancy, instructions, bank conflicts, roofline",
        description="Compiles a kernel for a GPU that need not be there, reads its machine code, runs a block of it on"
        " the CPU, and says what it takes and what bounds it. Exit code: 0, or 2 if it cannot be done.",
        epilog="The library's kernels are bounded by their stage of a layer: 128 images of 64 channels, 64 filters of"
        " 3x3, planes of T-2 with a zero around. A kernel of yours is bounded by what its block (0, 0, 0) computes"
        " and moves, times --grid.",
    )
    command.add_argument("kernel", help=f"{', '.join(LIBRARY)}, or module:kernel of your own")
    command.add_argument("--gpu", help="H200, H100, A100, A40, L40S or RTX4090 (default: H200, or by --arch)")
    command.add_argument("--arch", help="sm_80, sm_86, sm_89 or sm_90")
    command.add_argument("--sass", action="store_true", help="print the machine code too")
    command.add_argument("--json", action="store_true", help="print JSON in place of text")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page: plots of this kernel and of ours")
    ours = command.add_argument_group("kernels of the library")
    ours.add_argument("--fft-size", metavar="T", help="32, or rows and columns as 32x64 (default: 32, of passes 128)")
    ours.add_argument("--channels", type=int, metavar="C", help="and filters of the layer that bounds it (default: 64)")
    ours.add_argument("--planes", type=int, metavar="B", help="planes a block (default: as the library takes them)")
    ours.add_argument("--pass", dest="pass_name", help="forward, input_grad or weight_grad (default: forward)")
    ours.add_argument("--tile", help="block tile of the product (default: 64x64)")
    ours.add_argument("--precision", help="of the product: fp32, tf32x3, bf16x3 or tf32 (default: fp32)")
    ours.add_argument("--vec", type=int, help="complex values a copy of the product: 1 or 2 (default: 2)")
    yours = command.add_argument_group("kernels of your own")
    yours.add_argument("--signature", metavar="TYPES", help='in Numba\'s syntax: "float32[::1], int32"')
    yours.add_argument("--threads", metavar="SHAPE", help="of a block: 128 or 16x16 (default: 128)")
    yours.add_argument("--shared", type=int, metavar="BYTES", help="of dynamic shared memory (default: 0)")
    yours.add_argument("--launch", metavar="ARGUMENTS", help='to run a block with: "zeros(4096) 7"')
    yours.add_argument("--grid", metavar="SHAPE", help="blocks of the launch: 32 or 8x4 (default: 1)")


def main(chosen: argparse.Namespace) -> int:
    """Run the subcommand."""
    try:
        with no_collections():
            return _run(chosen)
    except (FFTConvError, OSError) as error:
        print(f"inspect: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def _run(chosen: argparse.Namespace) -> int:
    from ..cuda.toolchain import SIMULATED, require_numba_cuda
    from ..gpus import find_gpu

    gpu = find_gpu(chosen.gpu, chosen.arch)
    _check_options(chosen)
    if SIMULATED:
        raise UnsupportedError("under NUMBA_ENABLE_CUDASIM=1 nothing is compiled: unset it")
    require_numba_cuda()
    if chosen.html:
        from . import page

        page.require_matplotlib()
        if not chosen.html.parent.is_dir():
            raise InvalidOptionError(f"html is {str(chosen.html)!r}: there is no folder {str(chosen.html.parent)!r}")
    from . import report, text

    found = report.inspect(_subject(chosen, gpu), gpu)
    if chosen.json:
        print(json.dumps(found.as_dict() | ({"sass": found.code.sass} if chosen.sass else {}), indent=1))
    else:
        print(text.text(found))
        if chosen.sass:
            print("", found.code.sass, sep="\n")
    if chosen.html:
        page.write(chosen.html, found, page.library_reports(gpu))
        print(f"page: {chosen.html}", file=sys.stderr)
    return 0


def _check_options(chosen: argparse.Namespace) -> None:
    """Raise InvalidOptionError where an option is not for the kernel."""
    kind = chosen.kernel if chosen.kernel in LIBRARY else "custom"
    for name, kinds in FOR.items():
        if getattr(chosen, name) is not None and kind not in kinds:
            option = "--" + ("pass" if name == "pass_name" else name.replace("_", "-"))
            wide = {("custom",): "a kernel of your own", LIBRARY: "kernels of the library"}
            of = wide.get(kinds, " and ".join(kinds))
            raise InvalidOptionError(f"{option} is for {of}, not for {chosen.kernel}")


def _subject(chosen: argparse.Namespace, gpu: Any) -> Any:
    given = {name: getattr(chosen, name) for name in FOR if getattr(chosen, name) is not None}
    if chosen.kernel in LIBRARY:
        from . import library

        if "fft_size" in given:
            given["fft_size"] = library.size_of(given["fft_size"])
        return library.subject(chosen.kernel, library.Choices(**given), gpu)
    from . import custom

    for name, most in (("threads", MOST_THREADS), ("grid", MOST_BLOCKS)):
        if name in given:
            given[name] = custom.shape_of(given[name], name, most)
    return custom.subject(chosen.kernel, custom.Given(**given))
