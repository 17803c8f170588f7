"""Train a net of 9x9 kernels on handwritten digits, in NumPy and in torch, with numba_fftconv and with torch's Conv2d.

    python -m numba_fftconv.examples.train_digits --figure digits.png

One net (net.py), one set of first weights, one order of batches, three learners: all of it in NumPy; torch with
FFTConv2d; torch with nn.Conv2d, against which the other two are held. What is demanded:

    accuracy   at least 97 % of the test digits, by every learner in float32
    float64    every loss of an epoch as nn.Conv2d has it, to 1e-9
    float32    the first ten losses to 1e-5, and the accuracy to one per cent

In float64 nothing but rounding tells the three apart, and it stays so. In float32 training makes rounding grow, without
bound that could be told beforehand: it decides on which side of zero activations fall, ReLU lets a gradient through in
one learner and not in another, and after an epoch or two the curves follow one another without being the same. How far
they come apart is printed and drawn, not judged.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import FFTConvError
from .digits import Array, Digits, batches, load
from .extras import require
from .net import NumpyNet, Weights, initial_weights
from .run import Run

EPOCHS = 8
BATCH = 32
RATE = 0.05  # falls linearly to zero
LEAST_ACCURACY = 0.97
MOST_APART = 0.01  # of the accuracies
REFERENCE = "torch, nn.Conv2d"


@dataclass(frozen=True)
class Bound:
    """How far the losses of the first steps may lie from the reference; how many epochs to run. None stands for all."""

    most: float
    steps: int | None
    epochs: int | None


BOUNDS = {"float32": Bound(1e-5, 10, None), "float64": Bound(1e-9, None, 1)}


class Learner(Protocol):
    """A net that trains: net.NumpyNet, torch_net.TorchNet."""

    def step(self, images: Array, labels: Array, rate: float) -> float: ...

    def scores(self, images: Array) -> Array: ...

    def weights(self) -> Weights: ...


def train(name: str, learner: Learner, digits: Digits, epochs: int, run_epochs: int) -> Run:
    """Train a net for some of the epochs of a training: rates are those of the whole.

    Parameters
    ----------
    name : of the run.
    learner : a net, which is changed.
    digits : to train on and to test with.
    epochs : of the whole training.
    run_epochs : to run, from the first on.

    Returns
    -------
    Run
    """
    start, losses = time.perf_counter(), []
    steps = epochs * (len(digits.labels) // BATCH)
    order = islice(batches(digits, BATCH, epochs), steps // epochs * run_epochs)
    for step, (images, labels) in enumerate(order):
        losses.append(learner.step(images, labels, RATE * (1 - step / steps)))
    seconds = time.perf_counter() - start
    accuracy = float(np.mean(learner.scores(digits.test_images).argmax(axis=1) == digits.test_labels))
    return Run(name, digits.images.dtype.name, np.array(losses), accuracy, seconds, learner.weights()["conv1.weight"])


def learners(backend: str, weights: Weights) -> Iterator[tuple[str, Learner]]:
    """The nets of a backend, each with a copy of the weights."""
    if backend != "torch":
        yield "NumPy", NumpyNet(weights)
    if backend != "numpy":
        from torch import nn

        from ..torch import FFTConv2d
        from .torch_net import TorchNet

        yield "torch, FFTConv2d", TorchNet(FFTConv2d, weights)
        yield REFERENCE, TorchNet(nn.Conv2d, weights)


def run_all(backend: str, dtypes: Sequence[str], epochs: int) -> list[Run]:
    """Train every learner of a backend in every dtype, and print a line of each."""
    runs = []
    for dtype in dtypes:
        digits, own = load(dtype), BOUNDS[dtype].epochs
        for name, learner in learners(backend, initial_weights(0, dtype)):
            run = train(name, learner, digits, epochs, min(epochs, own or epochs))
            print(
                f"{run.dtype}  {run.name:16}  {len(run.losses):4} steps in {run.seconds:5.1f} s"
                f"   loss {run.losses[0]:.3f} -> {run.losses[-10:].mean():.3f}   accuracy {run.accuracy:.1%}",
                flush=True,
            )
            runs.append(run)
    return runs


def verdict(runs: Sequence[Run]) -> Iterator[tuple[str, bool]]:
    """What is demanded: each figure beside its limit, and whether it holds."""
    for run in runs:
        if BOUNDS[run.dtype].epochs is None:
            said = f"{run.dtype} {run.name}: accuracy {run.accuracy:.2%}, at least {LEAST_ACCURACY:.0%} is wanted"
            yield said, run.accuracy >= LEAST_ACCURACY
    references = {run.dtype: run for run in runs if run.name == REFERENCE}
    for run in runs:
        reference = references.get(run.dtype, run)
        if run is reference:
            continue
        bound, apart = BOUNDS[run.dtype], run.apart(reference)
        judged = apart[: bound.steps]
        said = f"{run.dtype} {run.name}: {len(judged)} losses at most {judged.max():.1e} from nn.Conv2d (all"
        yield f"{said} {len(apart)}: {apart.max():.1e}), {bound.most:g} is allowed", bool(judged.max() <= bound.most)
        off = abs(run.accuracy - reference.accuracy)
        yield f"{run.dtype} {run.name}: accuracy {off:.2%} from it, {MOST_APART:.0%} is allowed", off <= MOST_APART


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; its exit code: 0 if all that is demanded holds, 1 if not, 2 if it cannot run."""
    parser = argparse.ArgumentParser(
        prog="python -m numba_fftconv.examples.train_digits", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--backend", choices=("numpy", "torch", "both"), default="both")
    parser.add_argument("--dtype", choices=(*BOUNDS, "both"), default="both")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"of the training in float32 (default: {EPOCHS})")
    parser.add_argument("--figure", type=Path, metavar="PATH", help="draw losses, differences and kernels (a PNG)")
    chosen = parser.parse_args(words)
    if chosen.epochs < 1:
        parser.error(f"--epochs {chosen.epochs}: there must be at least 1")
    try:
        require("sklearn", *["torch"] * (chosen.backend != "numpy"), *["matplotlib"] * (chosen.figure is not None))
        runs = run_all(chosen.backend, list(BOUNDS) if chosen.dtype == "both" else [chosen.dtype], chosen.epochs)
        if chosen.figure is not None:
            from .digits_figure import draw

            draw(runs, REFERENCE, chosen.figure)
    except (FFTConvError, OSError) as error:
        print(f"train_digits: {error}", file=sys.stderr)
        return 2
    found = list(verdict(runs))
    for said, holds in found:
        print(f"{said}: {'PASS' if holds else 'FAIL'}")
    return 0 if all(holds for _, holds in found) else 1


if __name__ == "__main__":
    sys.exit(main())
