"""The examples' net in NumPy against finite differences, its training against torch's, and the program's exit codes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from numba_fftconv.examples import digits, net, train_digits
from numba_fftconv.examples.run import Run
from numba_fftconv.examples.train_digits import REFERENCE

FLAT = Run(REFERENCE, "float32", np.full(12, 0.5), 0.98, 1.0, np.zeros((8, 1, 9, 9)))
TENTH, ELEVENTH = np.eye(12)[9:11]


# ---- the net


def test_gradients_agree_with_finite_differences() -> None:
    """Along a random direction for each parameter: the slope of the loss, between two steps of 1e-6."""
    rng = np.random.default_rng(3)
    images, labels = rng.standard_normal((3, 1, 16, 16)), np.array([7, 0, 7])
    weights = net.initial_weights(1, "float64", side=16)
    gradients = net.NumpyNet(weights).gradients(images, labels)[1]
    assert gradients.keys() == weights.keys()
    for name, weight in weights.items():
        way = rng.standard_normal(weight.shape)
        way *= 1e-6 / np.linalg.norm(way)
        there, back = (net.NumpyNet({**weights, name: weight + sign * way}) for sign in (1, -1))
        rise = net.cross_entropy(there.scores(images), labels)[0] - net.cross_entropy(back.scores(images), labels)[0]
        assert 2 * np.vdot(gradients[name], way) == pytest.approx(rise, rel=1e-4, abs=1e-13), name


def test_a_step_is_descent_with_momentum() -> None:
    rng = np.random.default_rng(4)
    images, labels = rng.standard_normal((2, 1, 16, 16)), np.array([1, 2])
    given = net.initial_weights(0, "float64", side=16)
    learner = net.NumpyNet(given)
    want = {name: weight.copy() for name, weight in given.items()}
    velocity = {name: np.zeros_like(weight) for name, weight in given.items()}
    for rate in (0.1, 0.05):
        slope = net.NumpyNet(want).gradients(images, labels)[1]
        velocity = {name: 0.9 * v + slope[name] for name, v in velocity.items()}
        want = {name: weight - rate * velocity[name] for name, weight in want.items()}
        learner.step(images, labels, rate)
    for name, weight in learner.weights().items():
        np.testing.assert_allclose(weight, want[name], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(given["conv1.bias"], net.initial_weights(0, "float64")["conv1.bias"])


def test_enlarged_keeps_a_ramp_and_the_mean() -> None:
    rows, columns = np.mgrid[:8, :8].astype(float)
    large = digits.enlarged(2 * rows + columns, 32)
    np.testing.assert_allclose(np.diff(large, axis=0)[2:-2], 0.5, atol=1e-12)
    np.testing.assert_allclose(np.diff(large, axis=1)[:, 2:-2], 0.25, atol=1e-12)
    assert large.mean() == pytest.approx((2 * rows + columns).mean())


def test_an_epoch_has_every_digit_once_at_most_and_moves_it_within_its_border() -> None:
    images = np.zeros((70, 1, 32, 32))
    images[:, 0, 2:30, 2:30] = np.arange(1, 71)[:, np.newaxis, np.newaxis]
    labels = np.arange(1, 71)
    drawn = list(digits.batches(digits.Digits(images, labels, images[:0], labels[:0]), 32, epochs=2, seed=5))
    assert [len(batch) for batch, _ in drawn] == [32] * 4
    for batch, numbers in drawn:
        assert all(set(np.unique(image)) == {0, number} for image, number in zip(batch, numbers, strict=True))
        np.testing.assert_array_equal(batch.sum(axis=(1, 2, 3)), 28 * 28 * numbers)
        (rows,) = np.nonzero(batch[0, 0].any(axis=1))
        assert rows.max() - rows.min() == 27
    epochs = [np.concatenate([numbers for _, numbers in drawn[part]]) for part in (slice(2), slice(2, 4))]
    assert all(len(set(epoch)) == 64 for epoch in epochs) and not np.array_equal(*epochs)
    assert len({batch.any(axis=(0, 1)).tobytes() for batch, _ in drawn}) > 1


# ---- training


@pytest.fixture(scope="module")
def few() -> digits.Digits:
    """A part of the digits, in float64."""
    pytest.importorskip("sklearn")
    whole = digits.load("float64")
    return replace(whole, images=whole.images[:320], labels=whole.labels[:320])


def test_digits_are_split_once(few: digits.Digits) -> None:
    whole = digits.load("float32")
    assert whole.images.shape == (1437, 1, 32, 32) and whole.test_images.shape == (360, 1, 32, 32)
    assert whole.images.dtype == np.float32 and few.images.dtype == np.float64
    seen = {image.tobytes() for image in whole.images}
    assert sum(image.tobytes() in seen for image in whole.test_images) == 0
    assert np.bincount(whole.test_labels).min() >= 34


def test_the_three_learn_alike(few: digits.Digits) -> None:
    """In float64 for two epochs of ten steps, which also bring the loss down."""
    pytest.importorskip("torch")
    weights = net.initial_weights(0, "float64")
    runs = [train_digits.train(*learner, few, 2, 2) for learner in train_digits.learners("both", weights)]
    reference = runs[-1]
    assert [run.name for run in runs] == ["NumPy", "torch, FFTConv2d", REFERENCE]
    assert all(run.apart(reference).max() <= 1e-12 for run in runs)
    assert all(run.accuracy == reference.accuracy and len(run.losses) == 20 for run in runs)
    assert reference.losses[-3:].mean() < reference.losses[:3].mean() - 0.05
    np.testing.assert_allclose(runs[0].kernels, reference.kernels, rtol=0, atol=1e-12)


def test_a_short_training_is_the_beginning_of_the_long_one(few: digits.Digits) -> None:
    weights = net.initial_weights(0, "float64")
    short, long = (train_digits.train("NumPy", net.NumpyNet(weights), few, 2, epochs) for epochs in (1, 2))
    np.testing.assert_array_equal(short.losses, long.losses[:10])


# ---- what is demanded


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({}, 0),
        ({"losses": FLAT.losses + 9e-6 * TENTH}, 0),
        ({"losses": FLAT.losses + 2e-5 * TENTH}, 1),
        ({"losses": FLAT.losses + 2e-5 * ELEVENTH}, 0),
        ({"losses": FLAT.losses * np.nan}, 1),
        ({"accuracy": 0.971}, 0),
        ({"accuracy": 0.999}, 1),
        ({"accuracy": 0.969}, 2),
    ],
)
def test_the_verdict(changed: dict[str, object], fails: int) -> None:
    other = replace(FLAT, name="NumPy", **changed)  # type: ignore[arg-type]
    found = list(train_digits.verdict([other, FLAT]))
    assert len(found) == 4 and sum(not holds for _, holds in found) == fails


def test_float64_is_held_tightly() -> None:
    reference = replace(FLAT, dtype="float64")
    other = replace(reference, name="NumPy", losses=FLAT.losses + 2e-9 * ELEVENTH)
    assert [holds for _, holds in train_digits.verdict([other, reference])] == [False, True]


@pytest.mark.slow
def test_float64_is_held_to_nn_conv2d_alone(
    few: digits.Digits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(train_digits, "load", lambda dtype: few)
    assert train_digits.main(["--epochs", "1", "--backend", "torch", "--dtype", "float64"]) == 0
    said = capsys.readouterr().out
    assert said.count(": PASS") == 2 and "FAIL" not in said


def test_accuracy_is_demanded(
    few: digits.Digits, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {name: getattr(few, name).astype("float32") for name in ("images", "test_images")}
    monkeypatch.setattr(train_digits, "load", lambda dtype: replace(few, **small))
    assert train_digits.main(["--epochs", "1", "--backend", "numpy", "--dtype", "float32"]) == 1
    assert "at least 97% is wanted: FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("words", ["--epochs 0", "--backend jax", "--dtype float16"])
def test_wrong_words_exit_with_2(words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        train_digits.main(words.split())
    assert stopped.value.code == 2


@pytest.mark.parametrize(("library", "said"), [("sklearn", "scikit-learn"), ("torch", "torch"), ("matplotlib", "mat")])
def test_a_missing_library_is_named_with_its_extra(
    library: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sklearn", "torch", "matplotlib"):
        if name != library:
            pytest.importorskip(name)
    monkeypatch.setitem(sys.modules, library, None)
    assert train_digits.main(["--figure", "never.png"]) == 2
    error = capsys.readouterr().err
    extra = "torch" if library == "torch" else "examples"
    assert error.startswith(f"train_digits: {said}") and f"numba_fftconv[{extra}]" in error


def test_the_figure_shows_three_curves_and_eight_kernels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    from numba_fftconv.examples.digits_figure import draw

    path, kernels = tmp_path / "figure.png", np.linspace(-1, 1, 648).reshape(8, 1, 9, 9)
    losses = np.geomspace(2, 0.1, 50)
    runs = [replace(FLAT, name=n, losses=losses, kernels=kernels) for n in ("NumPy", "torch, FFTConv2d", REFERENCE)]
    draw(runs, REFERENCE, path)
    assert imread(path).shape[0] > 600 and path.stat().st_size < 300_000
    draw(runs[:1], REFERENCE, path)


@pytest.mark.slow
def test_the_whole_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sklearn", "torch", "matplotlib"):
        pytest.importorskip(name)
    path = tmp_path / "figure.png"
    assert train_digits.main(["--figure", str(path)]) == 0, capsys.readouterr().out
    assert path.stat().st_size < 300_000
