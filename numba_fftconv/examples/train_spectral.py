"""Learn a smooth 31 x 31 kernel in the frequency domain, with a sixth of the parameters and less noise.

A photograph x is seen through a hidden lens w, with noise n of 1 % of full scale: y = x * w + n. An aperture passes no
frequency beyond its cutoff; that is known, the aberrations are not. Both learners minimise |dx * v - dy|^2 from v = 0
by the same steps of L-BFGS, where d takes differences of neighbouring pixels (demo.py says why):

1. spatial: the parameters are the 961 samples of v;
2. spectral: they are the 169 frequencies of v up to the cutoff, a SpectralConv2d with its band_limit.

The photograph says little about high frequencies. The spatial learner fits noise there, the spectral one cannot. The
goal, or exit code 1: the spectral kernel is within 5 % of the hidden one, and less than half as far from it as the
spatial kernel, even as that was at its best step, which none can know who does not know the truth. The last line of the
table takes away from the learnt spatial kernel what lies beyond the cutoff: that mends most of it, after the work.

    python -m numba_fftconv.examples.train_spectral [--figure PATH]

Sources: Goodman, Introduction to Fourier Optics, for the lens; Nocedal and Wright, Numerical Optimization, for L-BFGS.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..demo import differences
from ..scene import NOISE, DemoError, Planes, photograph, photographed, relative_error
from ..torch.functional import conv2d
from ..torch.spectral import SpectralConv2d

SIDE = 31
CUTOFF = 6  # cycles per 31 pixels
COMA, ASTIGMATISM, DEFOCUS = 0.15, 0.15, 0.1  # wavelengths at the rim of the aperture
STEPS = 20
MOST_ERROR = 0.05


def aberrated_lens() -> Planes:
    """The hidden kernel [1, 1, 31, 31], sum 1: the intensity |f|^2 behind an aperture whose wave front is not flat.

    f is the transform of the aperture, of half the cutoff in radius, here on a plane much larger than the kernel.
    """
    y, x = np.meshgrid(*[np.fft.fftfreq(8 * SIDE, CUTOFF / 2 / SIDE)] * 2, indexing="ij")
    radius = np.hypot(y, x)
    waves = COMA * (3 * radius**2 - 2) * (0.6 * y + 0.8 * x) + DEFOCUS * (2 * radius**2 - 1)
    waves += ASTIGMATISM * (x**2 - y**2 + x * y)
    light = np.abs(np.fft.ifft2((radius <= 1) * np.exp(2j * np.pi * waves))) ** 2
    seen = np.roll(light, (SIDE // 2, SIDE // 2), (0, 1))[:SIDE, :SIDE]
    return (seen / seen.sum()).astype(np.float32)[None, None]


def learn(parameter: Tensor, kernel: Callable[[], Tensor], x: Tensor, y: Tensor, steps: int) -> list[Planes]:
    """The kernels after each step of L-BFGS on the parameter, which `kernel` makes a kernel of."""
    optimiser = torch.optim.LBFGS([parameter], max_iter=1)  # the loss is quadratic: whole steps do

    def loss() -> Tensor:
        """1 where nothing but noise is left, whose differences have twice its variance."""
        optimiser.zero_grad()
        value = ((conv2d(x, kernel()) - y) ** 2).mean() / (2 * NOISE**2)
        value.backward()
        return value

    kernels = []
    for _ in range(steps):
        optimiser.step(loss)
        kernels.append(kernel().detach().numpy().copy())
    return kernels


def run(photo: Planes, hidden: Planes, steps: int) -> dict[str, tuple[int, Planes]]:
    """What was learnt, by name: the number of parameters and the kernel."""
    x, y = (torch.from_numpy(differences(planes)) for planes in (photo, photographed(photo, hidden)))
    spatial = nn.Conv2d(1, 1, SIDE, bias=False)
    nn.init.zeros_(spatial.weight)
    spectral = SpectralConv2d.from_conv(spatial, CUTOFF)
    *_, limited = learn(spectral.spectrum, lambda: spectral.weight, x, y, steps)
    path = learn(spatial.weight, lambda: spatial.weight, x, y, steps)
    low_passed = SpectralConv2d.from_conv(spatial, CUTOFF).weight.detach().numpy()
    count = spatial.weight.numel()
    return {
        "spectral": (spectral.spectrum.numel(), limited),
        "spatial": (count, path[-1]),
        "spatial, its best step": (count, min(path, key=lambda kernel: relative_error(kernel, hidden))),
        "spatial, low-passed": (count, low_passed),
    }


def draw(learnt: dict[str, tuple[int, Planes]], hidden: Planes, path: Path) -> None:
    """The kernels side by side, on one scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * (1 + len(learnt)), 3.4), layout="constrained")
    titles = {f"{name}: {relative_error(kernel, hidden):.1%} off": kernel for name, (_, kernel) in learnt.items()}
    panels = figure.subplots(1, 1 + len(learnt))
    for panel, (title, kernel) in zip(panels, {"hidden": hidden, **titles}.items(), strict=True):
        panel.imshow(kernel[0, 0], vmin=-hidden.max() / 4, vmax=hidden.max(), cmap="magma")
        panel.set_title(title, fontsize=10)
        panel.set_axis_off()
    figure.savefig(path, dpi=100)


def main(words: Sequence[str] | None = None, steps: int = STEPS) -> int:
    """Runs both learners and prints what came out; returns 0 if the goal is reached, 1 if not, 2 if it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m numba_fftconv.examples.train_spectral", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--figure", type=Path, metavar="PATH", help="write a picture of the kernels")
    figure = parser.parse_args(words).figure
    try:
        photo = photograph()[..., 20:180, 150:310]  # the face, 160 x 160 pixels
        hidden = aberrated_lens()
        learnt = run(photo, hidden, steps)
        if figure is not None:
            draw(learnt, hidden, figure)
    except (DemoError, OSError) as error:
        print(f"train_spectral: {error}", file=sys.stderr)
        return 2
    print(f"{'kernel':24}{'parameters':>10}{'relative error':>16}")
    errors = {name: relative_error(kernel, hidden) for name, (_, kernel) in learnt.items()}
    for name, (count, _) in learnt.items():
        print(f"{name:24}{count:10}{errors[name]:16.2%}")
    reached = errors["spectral"] <= min(MOST_ERROR, errors["spatial, its best step"] / 2)
    print(f"spectral within {MOST_ERROR:.0%}, and half as far as spatial ever was: {'PASS' if reached else 'FAIL'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
