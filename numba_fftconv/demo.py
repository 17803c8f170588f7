"""The main job: learn an unknown lens blur from a photograph, then take the blur off the photograph.

A photograph x is blurred by a hidden lens w and gets noise n: y = x * w + n (scene.py). Gradient descent through the
passes of a layer then solves two problems.

1. Learn: minimise |dx * v - dy|^2 / 2 over v >= 0, where d takes differences of neighbouring pixels. Convolution and d
   commute, so that v = w fits dy = dx * w just as y = x * w; but a photograph's spectrum falls with the frequency and
   that of its differences hardly does, which saves most of the steps. The slope is weight_grad(dx, dx * v - dy).
2. Deblur: minimise |z * v - y|^2 / 2 + SMOOTHNESS sum h(dz) over 0 <= z <= 1, with h(d) = sqrt(d^2 + EDGE^2), which
   smooths noise and spares edges. The slope of the first term is input_grad(z * v - y, v).

The three colours are images of one channel each, and no pixel outside the photograph is made up: y is smaller than x by
the reach of the lens. Sources: Beck and Teboulle, SIAM J. Imaging Sciences 2 (2009); Rudin, Osher and
Fatemi, Physica D 60 (1992).
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .api import plan_conv2d
from .errors import FFTConvError
from .plan import ConvPlan
from .scene import (
    LENS_SIDE,
    NOISE,
    RING,
    DemoError,
    Planes,
    inside,
    lens,
    photograph,
    photographed,
    psnr,
    relative_error,
)
from .spectral import SpectralWeight

LEARN_STEPS = 40
DEBLUR_STEPS = 60
SMOOTHNESS, EDGE = 1e-3, 0.02
MOST_ERROR = 0.05
LEAST_GAIN = 3.0
PICTURE = "numba_fftconv_demo.png"


# The two descents -----------------------------------------------------------------------------------------------------


@dataclass
class Stopwatch:
    """A plan that keeps the seconds of each call of its passes; on a GPU with the way of the result to the host."""

    job: str
    plan: ConvPlan
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, pass_name: str, *operands: Any) -> Planes:
        there = [self._on_device(operand) for operand in operands]
        start = time.perf_counter()
        result = getattr(self.plan, pass_name)(*there)
        planes: Planes = result if isinstance(result, np.ndarray) else result.copy_to_host()
        self.seconds.setdefault(pass_name, []).append(time.perf_counter() - start)
        return planes

    def transform_weight(self, kernel: Planes) -> SpectralWeight:
        return self.plan.transform_weight(self._on_device(kernel))

    def _on_device(self, operand: Any) -> Any:
        if not self.plan.device.startswith("cuda") or isinstance(operand, SpectralWeight):
            return operand
        from numba import cuda

        with cuda.gpus[int(self.plan.device.partition(":")[2])]:
            return cuda.to_device(np.ascontiguousarray(operand))


def descend(
    gradient: Callable[[Planes], tuple[float, Planes]],
    start: Planes,
    curvature: float,
    most: float,
    steps: int,
    watch: Callable[[int, float, Planes], None],
) -> Planes:
    """Accelerated gradient descent after Nesterov in 0 <= x <= most.

    `gradient` gives loss and slope, `curvature` bounds the second derivative, `watch` sees (step, loss, x).
    """
    x, ahead, momentum = start, start, 1.0
    for step in range(steps):
        loss, slope = gradient(ahead)
        moved = np.clip(ahead - slope / curvature, 0, most)
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / grown * (moved - x)
        x, momentum = moved, grown
        watch(step, loss, x)
    return x


def differences(photo: Planes) -> Planes:
    """Differences to the lower and to the right neighbour, as twice as many images one pixel smaller."""
    corner = photo[..., :-1, :-1]
    return np.concatenate([photo[..., 1:, :-1] - corner, photo[..., :-1, 1:] - corner])


def learn(passes: Stopwatch, sharp: Planes, blurred: Planes, steps: int, watch: Callable[..., None]) -> Planes:
    """The kernel that makes the blurred photo of the sharp one, by forward and weight_grad."""
    x, y = differences(sharp), differences(blurred)
    share = np.float32(1 / y.size)

    def gradient(kernel: Planes) -> tuple[float, Planes]:
        residual = passes("forward", x, kernel) - y
        return float(share * np.vdot(residual, residual)) / 2, share * passes("weight_grad", x, residual)

    def curvature(rounds: int = 12) -> float:
        """The largest second derivative, by power iteration, with a tenth to spare."""
        kernel = np.random.default_rng(1).standard_normal((1, 1, LENS_SIDE, LENS_SIDE)).astype(np.float32)
        for _ in range(rounds):
            kernel /= np.linalg.norm(kernel)
            kernel = share * passes("weight_grad", x, passes("forward", x, kernel))
        return 1.1 * float(np.linalg.norm(kernel))

    start = np.full((1, 1, LENS_SIDE, LENS_SIDE), 1 / LENS_SIDE**2, np.float32)
    kernel = descend(gradient, start, curvature() if steps else 1.0, 1.0, steps, watch)
    return kernel / kernel.sum()


def roughness(photo: Planes) -> tuple[float, Planes]:
    """The sum of h(d) = sqrt(d^2 + EDGE^2) over differences d of neighbouring pixels, and its slope."""
    total, slope = 0.0, np.zeros_like(photo)
    for before, after in ((np.s_[..., :-1, :], np.s_[..., 1:, :]), (np.s_[..., :-1], np.s_[..., 1:])):
        difference = photo[after] - photo[before]
        height = np.sqrt(difference**2 + EDGE**2)
        total += float(height.sum())
        difference /= height
        slope[after] += difference
        slope[before] -= difference
    return total, slope


def deblur(passes: Stopwatch, blurred: Planes, kernel: Planes, steps: int, watch: Callable[..., None]) -> Planes:
    """The photo that the kernel blurs to `blurred`, by forward and input_grad."""
    spectrum = passes.transform_weight(kernel)

    def gradient(photo: Planes) -> tuple[float, Planes]:
        residual = passes("forward", photo, spectrum) - blurred
        total, slope = roughness(photo)
        slope *= SMOOTHNESS
        slope += passes("input_grad", residual, spectrum)
        return (float(np.vdot(residual, residual)) / 2 + SMOOTHNESS * total) / blurred.size, slope

    start = np.pad(blurred, ((0, 0), (0, 0), (RING, RING), (RING, RING)), "edge")
    # A kernel of sum 1 without negative weights amplifies nothing; each pixel takes part in four differences.
    return descend(gradient, start, 1 + 8 * SMOOTHNESS / EDGE, 1.0, steps, watch)


# The whole job --------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What came out, and what it is held against."""

    photo: Planes
    blurred: Planes
    lens: Planes
    learned: Planes
    deblurred: Planes
    losses: dict[str, list[float]]
    stopwatches: list[Stopwatch]

    @property
    def error(self) -> float:
        """Relative L2 error of the learned kernel."""
        return relative_error(self.learned, self.lens)

    @property
    def blurred_psnr(self) -> float:
        return psnr(self.blurred, inside(self.photo))

    @property
    def deblurred_psnr(self) -> float:
        return psnr(inside(self.deblurred), inside(self.photo))

    @property
    def gain(self) -> float:
        """Decibels of PSNR that deblurring brought."""
        return self.deblurred_psnr - self.blurred_psnr

    @property
    def passed(self) -> bool:
        return self.error <= MOST_ERROR and self.gain >= LEAST_GAIN


@dataclass
class Progress:
    """One line that is written over on a terminal; every twentieth line elsewhere."""

    stream: TextIO
    job: str
    steps: int

    def __call__(self, step: int, text: str) -> None:
        last = step + 1 == self.steps
        line = f"{self.job:7} step {step + 1:3} of {self.steps}  {text}"
        if self.stream.isatty():
            self.stream.write(f"\r{line:78}" + "\n" * last)
        elif last or step % 20 == 0:
            self.stream.write(f"{line}\n")
        self.stream.flush()


def run(photo: Planes, device: str | None, learn_steps: int, deblur_steps: int, stream: TextIO) -> Outcome:
    """Blurs the photo with the hidden lens, learns the lens, deblurs the photo."""
    truth, weight_shape = lens(), (1, 1, LENS_SIDE, LENS_SIDE)
    blurred = photographed(photo, truth)
    images, _, H, W = photo.shape
    learning = Stopwatch("learn", plan_conv2d((2 * images, 1, H - 1, W - 1), weight_shape, device=device))
    deblurring = Stopwatch("deblur", plan_conv2d(photo.shape, weight_shape, device=device))
    losses: dict[str, list[float]] = {"learn": [], "deblur": []}
    show = {
        "learn": Progress(stream, "learn", learn_steps),
        "deblur": Progress(stream, "deblur", deblur_steps),
    }

    def watch_kernel(step: int, loss: float, kernel: Planes) -> None:
        losses["learn"].append(loss)
        show["learn"](step, f"loss {loss:.3e}  kernel error {relative_error(kernel, truth):6.1%}")

    def watch_photo(step: int, loss: float, estimate: Planes) -> None:
        losses["deblur"].append(loss)
        show["deblur"](step, f"loss {loss:.3e}  PSNR {psnr(inside(estimate), inside(photo)):5.2f} dB")

    learned = learn(learning, photo, blurred, learn_steps, watch_kernel)
    deblurred = deblur(deblurring, blurred, learned, deblur_steps, watch_photo)
    return Outcome(photo, blurred, truth, learned, deblurred, losses, [learning, deblurring])


def table(stopwatches: list[Stopwatch]) -> Iterator[str]:
    """Milliseconds and GFLOP/s of each pass of each problem."""
    yield "                                          first   median     GFLOP/s   GFLOP/s"
    yield "problem  pass          T    images  calls    ms       ms      direct       FFT"
    for stopwatch in stopwatches:
        plan, g = stopwatch.plan, stopwatch.plan.geometry
        direct = 2 * g.N * g.K * g.C * g.P * g.Q * g.R * g.S
        for pass_name, (first, *later) in stopwatch.seconds.items():
            seconds = statistics.median(later or [first])
            size = "x".join(map(str, plan.fft_size))
            yield (
                f"{stopwatch.job:8} {pass_name:11} {size:5} {g.N:7} {1 + len(later):6} {first * 1e3:7.1f}"
                f" {seconds * 1e3:7.2f} {direct / seconds / 1e9:11.1f} {plan.flops[pass_name] / seconds / 1e9:9.1f}"
            )
    yield "direct: 2 N K C P Q R S, the multiplications and additions of the definition, in the same time;"
    yield "FFT: the operations that the plan's schedule really makes. The first call also compiles."


def draw(outcome: Outcome, path: Path) -> None:
    """One picture: the photo three times, the kernel twice, the loss curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9.6), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.4, 1))
    top, bottom = halves
    photos = {
        "photo": inside(outcome.photo),
        f"blurred, 1 % noise: {outcome.blurred_psnr:.1f} dB PSNR": outcome.blurred,
        f"deblurred: {outcome.deblurred_psnr:.1f} dB PSNR": inside(outcome.deblurred),
    }
    for panel, (title, planes) in zip(top.subplots(1, 3), photos.items(), strict=True):
        panel.imshow(np.clip(planes[:, 0].transpose(1, 2, 0), 0, 1), interpolation="antialiased")
        panel.set_title(title)
        panel.set_axis_off()

    *panels, curves = bottom.subplots(1, 3, width_ratios=(1, 1, 1.25))
    kernels = {"true kernel": outcome.lens, f"learned kernel: {outcome.error:.1%} off": outcome.learned}
    brightest = float(max(outcome.lens.max(), outcome.learned.max()))
    for panel, (title, kernel) in zip(panels, kernels.items(), strict=True):
        shown = panel.imshow(kernel[0, 0], vmin=0, vmax=brightest, cmap="magma")
        panel.set_title(title)
        panel.set_xticks([0, RING, LENS_SIDE - 1])
        panel.set_yticks([0, RING, LENS_SIDE - 1])
    bottom.colorbar(shown, ax=panels, label="weight", shrink=0.75)

    curves.set_title("loss of both descents")
    for name, losses in outcome.losses.items():
        curves.semilogy(range(1, len(losses) + 1), losses, label=name)
    curves.axhline(NOISE**2, color="gray", linestyle="--", label="learn: the noise alone")
    curves.set_xlabel("step")
    curves.set_ylabel("loss per pixel")
    curves.grid(alpha=0.3, which="both")
    curves.legend()
    figure.savefig(path, dpi=100)


def verdict(outcome: Outcome) -> Iterator[str]:
    """The two numbers that decide, each beside its limit."""
    good = {True: "PASS", False: "FAIL"}
    yield (
        f"learned kernel: {outcome.error:.2%} relative L2 error, at most {MOST_ERROR:.0%} is allowed:"
        f" {good[outcome.error <= MOST_ERROR]}"
    )
    yield (
        f"deblurred photo: {outcome.deblurred_psnr:.2f} dB PSNR, blurred {outcome.blurred_psnr:.2f} dB,"
        f" gain {outcome.gain:.2f} dB, at least {LEAST_GAIN:g} dB is wanted: {good[outcome.gain >= LEAST_GAIN]}"
    )


def main(device: str | None = "cpu", learn_steps: int = LEARN_STEPS, photo: Planes | None = None) -> int:
    """Runs the job and prints what came out; returns the exit code: 0 good, 1 too far off, 2 cannot run."""
    start = time.perf_counter()
    try:
        outcome = run(photograph() if photo is None else photo, device, learn_steps, DEBLUR_STEPS, sys.stdout)
        print(*table(outcome.stopwatches), sep="\n")
        draw(outcome, Path(PICTURE))
    except (DemoError, FFTConvError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    print(f"picture: {PICTURE}, after {time.perf_counter() - start:.1f} s")
    print(*verdict(outcome), sep="\n")
    return 0 if outcome.passed else 1
