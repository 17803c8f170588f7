"""The public stages on the CUDA engine as it is compiled, launched by the driver of fake_driver.py, against a CPU's."""

from collections.abc import Iterator

import numpy as np
import pytest
from fake_driver import DeviceArray, FakeDriver, fixture_of_fake_driver  # noqa: F401
from machine_code import compiles
from stage_problem import PASSES, StageProblem, close

from numba_fftconv import DeviceMismatchError, clear_cache, inverse, multiply, transform
from numba_fftconv.integers import bins

pytestmark = compiles


@pytest.fixture(autouse=True)
def _no_programs_of_another_driver(fake_driver: FakeDriver) -> Iterator[None]:
    clear_cache()
    yield
    clear_cache()


def poisoned(fake: FakeDriver, *shape: int, dtype: str = "complex64") -> DeviceArray:
    return fake.array(np.full(shape, np.nan, dtype))


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("T", [4, 6])
def test_transform_and_inverse(T: int, fake_driver: FakeDriver) -> None:
    """On the stream that is given; 15 planes, so that bins begin at odd multiples of 8 bytes."""
    planes, bias, stream = draw(3, 5, 4, 3), draw(5), fake_driver.stream()
    spectrum, back = poisoned(fake_driver, bins((T, T)), 3, 5), poisoned(fake_driver, *planes.shape, dtype="float32")
    assert transform(fake_driver.array(planes), T, out=spectrum, stream=stream) is spectrum
    close(spectrum.host, transform(planes, T))
    inverse(spectrum, (4, 3), bias=fake_driver.array(bias), out=back, stream=stream)
    close(back.host, planes + bias[:, None, None])
    assert [event.details[2] for event in fake_driver.launches()] == [stream, stream]


@pytest.mark.parametrize("pass_name", PASSES)
@pytest.mark.parametrize(
    ("m", "Cg", "Kg", "groups"), [(3, 3, 5, 1), (2, 4, 2, 2), (5, 1, 2, 3)], ids=["odd", "in pairs", "depthwise"]
)
def test_multiply(pass_name: str, m: int, Cg: int, Kg: int, groups: int, fake_driver: FakeDriver) -> None:
    """Copied value by value and in pairs; then added to what is there."""
    problem = StageProblem(pass_name, 4, m, Cg, Kg, groups)
    a, b, old = problem.operands()
    want, out = multiply(a, b, pass_name, groups=groups), poisoned(fake_driver, *old.shape)
    on_gpu = fake_driver.array(a), fake_driver.array(b)
    assert multiply(*on_gpu, pass_name, groups=groups, out=out) is out
    close(out.host, want, of=problem.size(a, b))
    added = fake_driver.array(old)
    multiply(*on_gpu, pass_name, groups=groups, out=added, accumulate=True)
    close(added.host, old + want, of=(problem.size(a, b), old))


@pytest.mark.parametrize("groups", [1, 2])
def test_an_empty_batch(groups: int, fake_driver: FakeDriver) -> None:
    """Nothing is launched but what stores zeros: a gradient that is a sum over no images."""
    x, bias = fake_driver.array(np.empty((0, 2, 3, 3), "f4")), fake_driver.array(draw(4))
    X, Y = (poisoned(fake_driver, 10, 0, columns) for columns in (2, 4))
    W, dW = fake_driver.array(np.ones((10, 4, 2 // groups), "c8")), poisoned(fake_driver, 10, 4, 2 // groups)
    transform(x, 4, out=X)
    multiply(X, W, groups=groups, out=Y)
    inverse(Y, 2, bias=bias, out=poisoned(fake_driver, 0, 4, 2, 2, dtype="float32"))
    assert not fake_driver.launches()
    multiply(X, Y, "weight_grad", groups=groups, out=dW)
    assert len(fake_driver.launches()) == 1 and np.array_equal(dW.host, np.zeros_like(dW.host))


def test_two_gpus(fake_driver: FakeDriver) -> None:
    """Operands of both, or a stream of the other: an error, and nothing is written."""
    one, (here, there) = np.ones((10, 1, 1), "complex64"), (0, 1)
    a, b, out = fake_driver.array(one, here), fake_driver.array(one, there), poisoned(fake_driver, 10, 1, 1)
    with pytest.raises(DeviceMismatchError, match="a is on cuda:0, b is on cuda:1"):
        multiply(a, b, out=out)
    with pytest.raises(DeviceMismatchError, match="is of device 1, the arrays are on device 0"):
        multiply(a, a, out=out, stream=fake_driver.stream(there))
    assert np.isnan(out.host).all()
