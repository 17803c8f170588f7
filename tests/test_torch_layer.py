"""FFTConv2d is torch.nn.Conv2d in all but the way it computes, and keeps a spectrum only while that is the weight's."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from numba_fftconv import InvalidShapeError  # noqa: E402
from numba_fftconv.plan import ConvPlan  # noqa: E402
from numba_fftconv.torch import FFTConv2d  # noqa: E402

ON_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs torch with CUDA")]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]

ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "plain": ((3, 4, 3), {}),
    "no bias": ((3, 4, (3, 2)), {"bias": False, "stride": (2, 1), "padding": (1, 2), "dilation": 2}),
    "groups": ((4, 6, 3, 1, 1), {"groups": 2}),
    "same": ((3, 4, (4, 3)), {"padding": "same"}),
    "reflect": ((3, 4, 3), {"padding": 2, "padding_mode": "reflect"}),
    "replicate": ((3, 4, (4, 3)), {"padding": "same", "padding_mode": "replicate"}),
    "circular": ((3, 4, 3), {"padding": (1, 2), "padding_mode": "circular", "stride": 2}),
}
EACH = pytest.mark.parametrize("name", ARGUMENTS)


def pair(name: str, **more: Any) -> tuple[Any, Any]:
    """Our layer and torch's, of one seed."""
    positional, named = ARGUMENTS[name]
    layers = []
    for kind in (FFTConv2d, torch.nn.Conv2d):
        torch.manual_seed(3)
        layers.append(kind(*positional, **named, **more))
    return layers[0], layers[1]


def images(layer: Any, *batch: int) -> Any:
    return torch.randn(*batch, layer.in_channels, 9, 8, generator=torch.Generator().manual_seed(4)).to(layer.weight)


@pytest.fixture
def transformed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The weights that plans transform ahead of a call."""
    found: list[Any] = []
    plain = ConvPlan.transform_weight

    def counted(plan: ConvPlan, weight: Any) -> Any:
        found.append(weight)
        return plain(plan, weight)

    monkeypatch.setattr(ConvPlan, "transform_weight", counted)
    return found


@EACH
def test_what_it_is(name: str) -> None:
    """Parameters, state and words of torch's own layer, bit for bit."""
    ours, torchs = pair(name)
    assert isinstance(ours, torch.nn.Conv2d)
    assert list(ours.state_dict()) == list(torchs.state_dict())
    assert all(torch.equal(ours.state_dict()[key], value) for key, value in torchs.state_dict().items())
    assert repr(ours) == f"FFT{torchs!r}"
    torchs.load_state_dict(ours.state_dict())
    ours.load_state_dict(torchs.state_dict())


@EACH
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [(2,), ()], ids=["images", "one image"])
@pytest.mark.parametrize("training", [True, False])
def test_what_it_computes(name: str, device: str, batch: tuple[int, ...], training: bool) -> None:
    ours, torchs = (layer.to(device).train(training) for layer in pair(name))
    x = images(ours, *batch)
    for _ in range(2):
        torch.testing.assert_close(ours(x), torchs.cpu().double()(x.cpu().double()).to(x), rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), torchs(x.cpu().double()).to(x), rtol=1e-5, atol=1e-5)


def test_one_step_of_training() -> None:
    weights = []
    for layer in pair("reflect", dtype=torch.float64):
        optimiser = torch.optim.SGD(layer.parameters(), 0.1)
        layer(images(layer, 2)).pow(2).sum().backward()
        optimiser.step()
        weights.append((layer.weight, layer.bias))
    torch.testing.assert_close(*weights)


def test_factory_arguments() -> None:
    layer = FFTConv2d(3, 4, 3, device="meta", dtype=torch.float64)
    assert layer.weight.is_meta and layer.weight.dtype == torch.float64
    assert layer(torch.empty(2, 3, 8, 8, device="meta", dtype=torch.float64)).shape == (2, 4, 6, 6)


# ---- the spectrum of the weight


def evaluated(layer: Any, x: Any) -> Any:
    with torch.no_grad():
        return layer(x)


def test_the_weight_is_transformed_once(transformed: list[Any]) -> None:
    layer = pair("plain")[0].eval()
    x = images(layer, 2)
    first, second = evaluated(layer, x), evaluated(layer, x)
    assert len(transformed) == 1 and torch.equal(first, second)
    assert torch.equal(first, layer(x))  # which records gradients, and transforms the weight anew
    layer.requires_grad_(False)
    assert torch.equal(layer(x), first) and len(transformed) == 1
    evaluated(layer, images(layer, 5)), evaluated(layer, torch.ones(1, 3, 60, 60))
    assert len(transformed) <= 3  # by size of the transform


def replaced(layer: Any) -> None:
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "in place": lambda layer: torch.no_grad()(layer.weight.mul_)(2),
    "a step": lambda layer: torch.nn.init.normal_(layer.weight),
    "other memory": lambda layer: setattr(layer.weight, "data", layer.weight.data * 2),
    "a new parameter": replaced,
    "load_state_dict": lambda layer: layer.load_state_dict({k: v * 2 for k, v in layer.state_dict().items()}),
    "to another dtype": lambda layer: layer.to(torch.float64),
    "to another dtype and back": lambda layer: layer.bfloat16().float(),
    "training between": lambda layer: (layer.train(), layer.weight.data.mul_(2), layer.eval()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_weight_is_seen(change: str, transformed: list[Any]) -> None:
    layer = pair("plain")[0].eval()
    evaluated(layer, images(layer, 2))
    CHANGES[change](layer)
    x = images(layer, 2)
    want = torch.nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(evaluated(layer, x), want.to(x), rtol=1e-5, atol=1e-5)
    assert len(transformed) == 2


def test_the_memory_of_a_spectrum_is_held() -> None:
    """While a spectrum is kept no other tensor can begin where its weight began."""
    layer = pair("plain")[0].eval()
    evaluated(layer, images(layer, 2))
    address = layer.weight.data_ptr()
    for _ in range(20):
        layer.weight.data = layer.weight.data * 2
        assert layer.weight.data_ptr() != address


PLAIN_NOT: dict[str, Callable[[Any, Any], Any]] = {
    "training": lambda layer, x: evaluated(layer.train(), x),
    "gradients of the weight": lambda layer, x: layer(x),
    "gradients of the input": lambda layer, x: layer(x.requires_grad_()),
    "vmap": lambda layer, x: torch.no_grad()(torch.func.vmap(layer))(x),
    "grad": lambda layer, x: torch.func.grad(lambda x: layer(x).sum())(x),
    "jvp": lambda layer, x: torch.func.jvp(layer, (x,), (x,)),
    "other parameters": lambda layer, x: torch.no_grad()(torch.func.functional_call)(
        layer, {"weight": torch.ones_like(layer.weight)}, (x,)
    ),
    "compile": lambda layer, x: torch.no_grad()(torch.compile(layer, backend="aot_eager", fullgraph=True))(x),
    "export": lambda layer, x: torch.no_grad()(torch.export.export)(layer, (x,)).module()(x),
    "make_fx": lambda layer, x: torch.no_grad()(torch.fx.experimental.proxy_tensor.make_fx(layer))(x)(x),
    "autocast": lambda layer, x: torch.autocast("cpu", torch.bfloat16)(evaluated)(layer, x),
}


@pytest.mark.parametrize("what", PLAIN_NOT)
def test_no_spectrum_where_a_call_is_not_plain(what: str, transformed: list[Any]) -> None:
    layer = pair("plain")[0].eval()
    layer.requires_grad_(what == "gradients of the weight")
    PLAIN_NOT[what](layer, images(layer, 2))
    assert not transformed and "_kept" not in vars(layer)


def test_a_weight_that_is_computed_is_transformed_each_time(transformed: list[Any]) -> None:
    """Its memory and version say nothing of its samples."""
    layer = torch.nn.utils.parametrizations.weight_norm(pair("plain")[0]).eval()
    x = images(layer, 2)
    for _ in range(3):
        torch.nn.init.normal_(layer.parametrizations.weight.original0)
        want = torch.nn.functional.conv2d(x, layer.weight, layer.bias)
        torch.testing.assert_close(evaluated(layer, x), want, rtol=1e-4, atol=1e-4)
    assert not transformed


def test_inference_mode(transformed: list[Any]) -> None:
    """A parameter of torch.inference_mode counts no versions; one from outside it does."""
    layer = pair("plain")[0].eval()
    x = images(layer, 2)
    with torch.inference_mode():
        assert torch.equal(layer(x), layer(x)) and len(transformed) == 1
        inside = pair("plain")[0].eval()
        inside(x)
        inside.weight.mul_(2)
        want = torch.nn.functional.conv2d(x, inside.weight, inside.bias)
        torch.testing.assert_close(inside(x), want, rtol=1e-5, atol=1e-5)
    assert len(transformed) == 1
    assert torch.equal(evaluated(layer, x), layer(x)) and len(transformed) == 1


def saved(layer: Any) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy, "copy": copy.copy, "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": saved,
}  # fmt: skip


@pytest.mark.parametrize("how", COPIES)
def test_copies_have_no_spectrum(how: str) -> None:
    layer = pair("reflect")[0].eval()
    x = images(layer, 2)
    want = evaluated(layer, x)
    assert "_kept" in vars(layer)
    other = COPIES[how](layer)
    assert "_kept" not in vars(other) and type(other) is FFTConv2d and list(other.state_dict()) == ["weight", "bias"]
    assert torch.equal(evaluated(other, x), want)


@pytest.mark.parametrize("forget", [lambda layer: layer.train(), lambda layer: layer.eval(), lambda layer: layer.cpu()])
def test_the_spectrum_goes(forget: Callable[[Any], Any]) -> None:
    layer = pair("plain")[0].eval()
    evaluated(layer, images(layer, 2))
    assert "_kept" in vars(layer)
    forget(layer)
    assert "_kept" not in vars(layer)


def test_errors_in_evaluation() -> None:
    layer = pair("plain")[0].eval()
    evaluated(layer, images(layer, 2))
    with pytest.raises(InvalidShapeError, match="4 channels"):
        evaluated(layer, torch.ones(2, 4, 9, 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs torch with CUDA")
def test_streams_and_graphs(transformed: list[Any]) -> None:
    """A spectrum is of the stream that made it; a graph, which may outlive it, transforms the weight itself."""
    layer = pair("plain", device="cuda")[0].eval()
    x, side = images(layer, 2), torch.cuda.Stream()
    want = evaluated(layer, x)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        assert torch.equal(evaluated(layer, x), want) and len(transformed) == 2
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = evaluated(layer, x)
    assert len(transformed) == 2
    torch.no_grad()(layer.weight.mul_)(2)
    graph.replay()
    assert torch.equal(y, evaluated(layer, x))
