"""The layer that learns the spectrum of its kernel: against torch's own layer, and spectra against numpy.fft."""

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor, nn
from torch.nn import functional

from numba_fftconv import FFTConvError, InvalidOptionError, InvalidShapeError, InvalidTypeError, UnsupportedError
from numba_fftconv.torch import spectral
from numba_fftconv.torch.functional import conv2d
from numba_fftconv.torch.spectral import SpectralConv2d, to_kernel

DOUBLE = torch.float64
MODES = "reflect", "replicate", "circular"
KERNELS = [(5, 5), (4, 4), (7, 4), (4, 7), (1, 6), (1, 1), (2, 3)]
BANDS: list[Any] = [None, 0, 1, 2, (1, 3), (2, 0), 99]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The convolution itself has tests of its own, and would compile kernels for each size of this file."""

    def direct(x: Tensor, w: Tensor, bias: Tensor | None, stride: Any, padding: Any, *rest: Any) -> Tensor:
        (top, bottom), (left, right) = padding or ((0, 0), (0, 0))
        return functional.conv2d(functional.pad(x, (left, right, top, bottom)), w, bias, stride, 0, *rest)

    monkeypatch.setattr(spectral, "conv2d", direct)


def cycles(n: int) -> np.ndarray:
    """The frequencies of numpy.fft, in cycles per n samples."""
    return np.fft.fftfreq(n, 1 / n)


def beyond(size: tuple[int, int], band: Any) -> np.ndarray:
    """Which bins of numpy.fft.fft2 a band limit takes away."""
    rows, columns = (np.inf, np.inf) if band is None else band if isinstance(band, tuple) else (band, band)
    return (abs(cycles(size[0]))[:, None] > rows) | (abs(cycles(size[1])) > columns)


def low_passed(kernel: Tensor, band: Any) -> np.ndarray:
    fourier = np.fft.fft2(kernel.detach().numpy())
    fourier[..., beyond(tuple(kernel.shape[2:]), band)] = 0
    planes = np.fft.ifft2(fourier)
    assert abs(planes.imag).max() < 1e-12
    return planes.real


def close(a: Tensor, b: Tensor, error: float = 1e-11) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and float((a - b).detach().abs().max()) <= error


# ---- the same layer in another basis


@pytest.mark.parametrize("options", [
    *({"kernel_size": kernel} for kernel in KERNELS),
    {"kernel_size": 5, "stride": (2, 3), "padding": (1, 2)},
    {"kernel_size": (4, 3), "dilation": (1, 3), "padding": 2},
    {"kernel_size": (4, 5), "padding": "same"},
    {"kernel_size": 3, "padding": "valid", "bias": False},
    {"kernel_size": (6, 3), "groups": 2, "padding": 3},
    *({"kernel_size": (4, 3), "padding": (3, 1), "padding_mode": mode} for mode in MODES),
    {"kernel_size": (4, 6), "padding": "same", "padding_mode": "reflect", "dilation": (3, 1)},
], ids=str)  # fmt: skip
def test_all_frequencies_make_the_layer_of_torch(options: dict[str, Any]) -> None:
    conv = nn.Conv2d(4, 6, **options, dtype=DOUBLE)
    layer = SpectralConv2d.from_conv(conv)
    x = torch.randn(2, 4, 13, 17, dtype=DOUBLE)
    assert close(layer.weight, conv.weight)
    assert close(layer(x), conv(x)) and close(layer(x[0]), conv(x[0]))
    assert (layer.bias is None) == (conv.bias is None)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_the_layer_runs_on_the_operator_of_the_package(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, with the gradients of all parameters and of the input."""
    monkeypatch.setattr(spectral, "conv2d", conv2d)
    conv = nn.Conv2d(4, 6, (8, 9), stride=2, padding=(3, 4), groups=2, padding_mode=mode)
    layer, x = SpectralConv2d.from_conv(conv), torch.randn(2, 4, 20, 20, requires_grad=True)
    grads = []
    for model in (conv, layer):
        y = model(x)
        kernel, bias, dx = torch.autograd.grad(y.square().mean(), [*model.parameters(), x])
        grads.append((y, kernel, bias, dx))
    (y, dw, db, dx), (y2, dh, db2, dx2) = grads
    assert close(y2, y, 1e-5) and close(db2, db, 1e-6) and close(dx2, dx, 1e-6)
    assert close(to_kernel(dh, (8, 9)), dw, 1e-5)


def test_the_copy_is_a_copy() -> None:
    conv = nn.Conv2d(2, 3, 5).eval()
    before = torch.get_rng_state()
    layer = SpectralConv2d.from_conv(conv)
    assert torch.equal(torch.get_rng_state(), before) and not layer.training and layer.spectrum.requires_grad
    kept = layer.weight.detach().clone()
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.zero_()
    assert torch.equal(layer.weight, kept) and layer.bias is not None and layer.bias.abs().min() > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_kernel_comes_back_in_its_dtype(dtype: str) -> None:
    conv = nn.Conv2d(2, 3, (6, 5), dtype=getattr(torch, dtype))
    layer = SpectralConv2d.from_conv(conv)
    assert layer.spectrum.dtype == layer.bias.dtype == conv.weight.dtype
    eps = torch.finfo(conv.weight.dtype).eps
    assert close(layer.weight, conv.weight, 4 * eps * float(conv.weight.detach().norm()))


@pytest.mark.parametrize("kernel", [5, (4, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_new_layer_begins_as_that_of_torch(kernel: Any, bias: bool) -> None:
    torch.manual_seed(7)
    conv, after = nn.Conv2d(4, 6, kernel, groups=2, bias=bias, dtype=DOUBLE), torch.get_rng_state()
    torch.manual_seed(7)
    layer = SpectralConv2d(4, 6, kernel, groups=2, bias=bias, dtype=DOUBLE)
    assert close(layer.weight, conv.weight) and torch.equal(torch.get_rng_state(), after)
    assert torch.equal(layer.bias, conv.bias) if bias else layer.bias is None
    torch.manual_seed(7)
    limited = SpectralConv2d(4, 6, kernel, groups=2, bias=bias, dtype=DOUBLE, band_limit=1)
    assert np.allclose(limited.weight.detach(), low_passed(conv.weight, 1), rtol=0, atol=1e-12)


def test_a_layer_without_memory_is_filled_later() -> None:
    layer = SpectralConv2d(2, 3, 5, device="meta", band_limit=1)
    assert layer.weight.shape == (3, 2, 5, 5) and layer.spectrum.is_meta
    layer = layer.to_empty(device="cpu")
    torch.manual_seed(3)
    layer.reset_parameters()
    torch.manual_seed(3)
    assert torch.equal(layer.weight, SpectralConv2d(2, 3, 5, band_limit=1).weight)


# ---- the spectrum


@pytest.mark.parametrize("band", BANDS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_band_limit_is_the_low_pass_of_numpy(kernel: tuple[int, int], band: Any) -> None:
    conv = nn.Conv2d(2, 3, kernel, dtype=DOUBLE)
    layer = SpectralConv2d.from_conv(conv, band)
    assert np.allclose(layer.weight.detach(), low_passed(conv.weight, band), rtol=0, atol=1e-13)
    kept = np.fft.fft2(layer.weight.detach().numpy())[..., beyond(kernel, band)]
    assert kept.size == 0 or abs(kept).max() < 1e-13
    # As many parameters as frequencies, none of which is spare.
    plane = layer.spectrum[0, 0].numel()
    assert plane == np.count_nonzero(~beyond(kernel, band))
    with torch.no_grad():
        conv.weight.copy_(layer.weight)
    assert close(SpectralConv2d.from_conv(conv, band).spectrum, layer.spectrum)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_spectrum_is_that_of_hartley(kernel: tuple[int, int]) -> None:
    """By the sum over samples of cas, frequency 0 in the middle; Fourier's is made of it as the module says."""
    R, S = kernel
    layer = SpectralConv2d(1, 1, kernel, dtype=DOUBLE)
    w, h = layer.weight[0, 0].detach().numpy(), layer.spectrum[0, 0].detach().numpy()
    for (row, column), value in np.ndenumerate(h):
        ky, kx = row - R // 2, column - S // 2
        angle = 2 * np.pi * (ky * np.arange(R)[:, None] / R + kx * np.arange(S) / S)
        assert value == pytest.approx(np.sum(w * (np.cos(angle) + np.sin(angle))) / np.sqrt(R * S), abs=1e-13)
    h = np.fft.ifftshift(h)
    mirrored = np.roll(h[::-1, ::-1], 1, (0, 1))
    assert np.allclose((h + mirrored - 1j * (h - mirrored)) / 2, np.fft.fft2(w, norm="ortho"), rtol=0, atol=1e-13)


@pytest.mark.parametrize("band", [None, 1, (2, 1)], ids=str)
@pytest.mark.parametrize("kernel", [(5, 5), (4, 6), (7, 4)], ids=str)
def test_the_basis_is_orthonormal(kernel: tuple[int, int], band: Any) -> None:
    layer = SpectralConv2d(1, 1, kernel, band_limit=band, dtype=DOUBLE)
    columns = torch.eye(layer.spectrum.numel(), dtype=DOUBLE).reshape(-1, *layer.spectrum.shape[2:])
    basis = to_kernel(columns, kernel).flatten(1)
    assert close(basis @ basis.T, torch.eye(len(basis), dtype=DOUBLE))


# ---- learning


@pytest.mark.parametrize("band", [None, 1], ids=str)
@pytest.mark.parametrize("options", [{"stride": 2}, {"groups": 2, "padding_mode": "circular"}], ids=str)
def test_derivatives_of_both_orders(options: dict[str, Any], band: Any) -> None:
    layer = SpectralConv2d(2, 2, (3, 4), padding=2, **options, band_limit=band, dtype=DOUBLE)
    x = torch.randn(1, 2, 3, 4, dtype=DOUBLE, requires_grad=True)

    def call(x: Tensor, spectrum: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"spectrum": spectrum, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(call, (x, layer.spectrum, layer.bias))
    assert torch.autograd.gradgradcheck(call, (x, layer.spectrum, layer.bias), fast_mode=True)


@pytest.mark.parametrize("kernel", [(5, 5), (4, 6), (3, 4)], ids=str)
@pytest.mark.parametrize("optimiser", [
    lambda them: torch.optim.SGD(them, lr=0.1),
    lambda them: torch.optim.SGD(them, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
], ids=["plain", "momentum and decay"])  # fmt: skip
def test_gradient_descent_takes_the_same_steps_in_both_domains(kernel: Any, optimiser: Callable) -> None:
    conv = nn.Conv2d(2, 3, kernel, padding=2, dtype=DOUBLE)
    layer = SpectralConv2d.from_conv(conv)
    x, begun = torch.randn(2, 2, 9, 8, dtype=DOUBLE), conv.weight.detach().clone()
    target = torch.randn_like(conv(x))
    for model in (conv, layer):
        steps = optimiser(model.parameters())
        for _ in range(3):
            steps.zero_grad()
            ((model(x) - target) ** 2).mean().backward()
            steps.step()
    assert float((conv.weight - begun).detach().abs().max()) > 1e-3
    assert close(layer.weight, conv.weight) and close(layer.bias, conv.bias)


def test_a_step_within_the_band_is_the_low_pass_of_the_step() -> None:
    """Of descent projected onto the band, which the parameters never leave."""
    conv = nn.Conv2d(1, 1, (7, 6), padding=3, dtype=DOUBLE)
    layer = SpectralConv2d.from_conv(conv, 2)
    with torch.no_grad():
        conv.weight.copy_(layer.weight)
    x = torch.randn(1, 1, 9, 9, dtype=DOUBLE)
    for model in (conv, layer):
        steps = torch.optim.SGD(model.parameters(), lr=0.1)
        model(x).pow(3).mean().backward()
        steps.step()
    assert float((conv.weight - layer.weight).detach().abs().max()) > 1e-4
    assert np.allclose(layer.weight.detach(), low_passed(conv.weight, 2), rtol=0, atol=1e-13)


# ---- a module among modules


def test_state_copies_and_pickles() -> None:
    layer = SpectralConv2d(2, 4, (5, 4), groups=2, padding="same", band_limit=(1, 2))
    x = torch.randn(1, 2, 8, 8)
    other = SpectralConv2d(2, 4, (5, 4), groups=2, padding="same", band_limit=(1, 2))
    assert set(layer.state_dict()) == {"spectrum", "bias"} and not torch.equal(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same(x), layer(x)) and repr(same) == repr(layer)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.spectrum.zero_()
    assert not torch.equal(twin.weight, layer.weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        SpectralConv2d(2, 4, (5, 4), groups=2).load_state_dict(layer.state_dict())


def test_the_weight_is_read_only() -> None:
    layer = SpectralConv2d(1, 1, 3)
    for value in (torch.zeros(1, 1, 3, 3), nn.Parameter(torch.zeros(1, 1, 3, 3))):
        with pytest.raises((AttributeError, KeyError)):
            layer.weight = value  # type: ignore[misc]
    assert set(dict(layer.named_parameters())) == {"spectrum", "bias"}


def test_repr_says_what_is_not_the_default() -> None:
    assert repr(SpectralConv2d(2, 4, 5)) == "SpectralConv2d(2, 4, kernel_size=(5, 5))"
    layer = SpectralConv2d(2, 4, (5, 4), 1, "same", 1, 2, False, "circular", band_limit=(1, 2))
    assert repr(layer) == (
        "SpectralConv2d(2, 4, kernel_size=(5, 4), padding=((2, 2), (1, 2)), groups=2, bias=False,"
        " padding_mode='circular', band_limit=(1, 2))"
    )


@pytest.mark.parametrize("change, error, words", [
    ({"in_channels": 0}, InvalidOptionError, "in_channels is 0"),
    ({"out_channels": 2.5}, InvalidOptionError, "out_channels is 2.5"),
    ({"kernel_size": (5, 0)}, InvalidOptionError, r"kernel_size is \(5, 0\)"),
    ({"kernel_size": (5, 5, 5)}, InvalidOptionError, "a pair"),
    ({"kernel_size": 257}, UnsupportedError, "at most 256"),
    ({"kernel_size": 90, "dilation": 3}, UnsupportedError, "at most 256"),
    ({"stride": 0}, InvalidOptionError, "stride is 0"),
    ({"padding": -1}, InvalidOptionError, "padding is -1"),
    ({"padding": "full"}, InvalidOptionError, "padding is 'full'"),
    ({"padding": "same", "stride": 2}, InvalidOptionError, "stride 1"),
    ({"dilation": 0}, InvalidOptionError, "dilation is 0"),
    ({"groups": 3}, InvalidShapeError, "groups is 3"),
    ({"groups": 0}, InvalidOptionError, "groups is 0"),
    ({"padding_mode": "mirror"}, InvalidOptionError, "padding_mode is 'mirror': it must be one of zeros, reflect"),
    ({"band_limit": -1}, InvalidOptionError, "band_limit is -1: -1 is too small, the least is 0"),
    ({"band_limit": 1.5}, InvalidOptionError, "band_limit is 1.5"),
    ({"band_limit": (1, 2, 3)}, InvalidOptionError, r"band_limit is \(1, 2, 3\): it must be an int or a pair"),
    ({"dtype": torch.int32}, InvalidTypeError, "dtype is torch.int32"),
    ({"dtype": torch.complex64}, InvalidTypeError, "dtype is torch.complex64"),
], ids=lambda value: str(value) if isinstance(value, dict) else "")  # fmt: skip
def test_bad_values(change: dict[str, Any], error: type[FFTConvError], words: str) -> None:
    with pytest.raises(error, match=words):
        SpectralConv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 5, **change})


def test_only_a_layer_with_a_kernel_can_be_taken_over() -> None:
    with pytest.raises(InvalidTypeError, match=r"conv is a ConvTranspose2d: it must be a torch\.nn\.Conv2d"):
        SpectralConv2d.from_conv(nn.ConvTranspose2d(1, 1, 3))  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match="no kernel yet"):
        SpectralConv2d.from_conv(nn.LazyConv2d(1, 3))
    with pytest.raises(InvalidOptionError, match="band_limit is -2"):
        SpectralConv2d.from_conv(nn.Conv2d(1, 1, 3), -2)


# ---- the example


@pytest.mark.parametrize("steps, code, word", [(10, 0, "PASS"), (1, 1, "FAIL")])
def test_the_example_says_whether_its_goal_is_reached(
    steps: int, code: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    from numba_fftconv.examples import train_spectral

    figure = tmp_path / "kernels.png"
    assert train_spectral.main(["--figure", str(figure)] if code == 0 else [], steps) == code
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(word) and re.search(r"spectral +169 ", printed) and figure.exists() == (code == 0)


def test_the_lens_of_the_example_passes_nothing_beyond_its_cutoff() -> None:
    """But for what the kernel's edges cut off."""
    pytest.importorskip("matplotlib")
    from numba_fftconv.examples import train_spectral

    hidden = train_spectral.aberrated_lens()
    assert hidden.shape == (1, 1, 31, 31) and hidden.min() >= 0 and hidden.sum() == pytest.approx(1, abs=1e-5)
    for band, least, most in ((6, 0, 0.01), (3, 0.1, 1)):
        lost = hidden - low_passed(torch.from_numpy(hidden), band)
        assert least <= np.linalg.norm(lost) / np.linalg.norm(hidden) <= most
