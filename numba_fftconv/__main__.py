"""The command line: python -m numba_fftconv demo, or inspect."""

import argparse
import gc
import sys
from collections.abc import Sequence

from .inspect import command as inspect


def count(word: str) -> int:
    """A whole number from 0 up."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is not a whole number from 0 up")
    return int(word)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m numba_fftconv", description="Convolution layers by FFT.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="learn an unknown lens blur from a photograph, and take it off",
        description="Learns an unknown 15x15 lens blur from a photograph and its blurred, noisy image by gradient"
        " descent through the passes of a layer, takes the blur off, and writes numba_fftconv_demo.png."
        " Exit code: 0 if both came out well, 1 if not, 2 if it cannot run.",
    )
    demo.add_argument(
        "--device",
        default="cpu",
        help="cpu, cuda or cuda:1 (default: cpu); sim runs a tiny layer on the GPU's kernels as plain Python",
    )
    demo.add_argument("--steps", type=count, help="steps of learning the kernel (default: enough)")
    inspect.add_to(commands)
    chosen = parser.parse_args(words)

    if chosen.command == "inspect":
        return inspect.main(chosen)
    if chosen.device == "sim":
        from . import tiny

        return tiny.main()

    from . import demo as job

    try:
        return job.main(chosen.device, job.LEARN_STEPS if chosen.steps is None else chosen.steps)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    code = main()
    gc.freeze()  # at the end of a process nothing need be searched for garbage: a second, after a compilation
    sys.exit(code)
