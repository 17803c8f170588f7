"""convert changes the layers that the cost model names, leaves all else as it was, and says why."""

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from numba_fftconv import InvalidOptionError, InvalidTypeError  # noqa: E402
from numba_fftconv.torch import FFTConv2d, convert  # noqa: E402


class Own(nn.Conv2d):
    """A class of the user's."""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Conv2d(8, 8, 11, padding=5)
        self.again = self.large
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.point = nn.Conv2d(8, 8, 1)
        self.own = Own(8, 8, 11, padding=5)
        self.up = nn.ConvTranspose2d(8, 8, 11, padding=5)
        self.small = nn.Conv2d(8, 8, (1, 2), padding="same")
        self.idle = nn.Conv2d(8, 8, 11)
        self.wide = nn.Conv2d(8, 1, (1, 300), padding=(0, 150))
        self.register_buffer("seen", torch.zeros(()))
        self.fails = False

    def forward(self, x: Any) -> Any:
        self.seen += 1
        x = self.drop(self.norm(self.again(self.large(x))))
        y = self.wide(self.small(self.up(self.own(self.point(x)))))
        if self.fails:
            raise RuntimeError("of the model's own")
        return y


X = torch.randn(2, 8, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_model() -> None:
    torch.manual_seed(0)
    model = Model().eval()
    with torch.no_grad():
        want = model(X)
    parameters, parts = list(model.parameters()), dict(model.named_modules(remove_duplicate=False))
    calls: list[Any] = []
    model.large.register_forward_hook(lambda *_: calls.append(_))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.norm.eval()
    report = convert(model, X)
    assert report.converted == ("large",)
    assert len(calls) == 2  # of the example
    assert model.training and model.drop.training and not model.norm.training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert all(part is parts[name] for name, part in model.named_modules(remove_duplicate=False))
    assert type(model.large) is FFTConv2d and model.again is model.large
    assert type(model.own) is Own and type(model.point) is type(model.small) is type(model.idle) is nn.Conv2d
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(X), want, rtol=1e-4, atol=1e-5)
    assert len(calls) == 4

    by_name = {decision.names[0]: decision for decision in report.decisions}
    assert by_name["large"].names == ("large", "again") and by_name["large"].is_converted
    assert by_name["large"].fft < by_name["large"].direct
    reasons = {
        "point": "one sample", "own": "Own is a class of its own", "idle": "does not reach", "wide": "at most 256",
        "small": "direct convolution is predicted",
    }  # fmt: skip
    assert list(by_name) == ["large", "point", "own", "small", "idle", "wide"]
    for name, words in reasons.items():
        assert words in by_name[name].reason and not by_name[name].is_converted
    with pytest.raises(FrozenInstanceError):
        by_name["large"].reason = ""
    lines = str(report).splitlines()
    assert len(lines) == 7 and lines[1].startswith("large, again") and "FFTConv2d" in lines[1]
    assert all(decision.reason in line for decision, line in zip(report.decisions, lines[1:], strict=True))
    assert "it is one already" in str(convert(model, X))


def test_calls_of_one_layer_are_summed() -> None:
    twice, once = Model(), nn.Conv2d(8, 8, 11, padding=5)
    of_both, of_one = convert(twice, X).decisions[0], convert(once, X).decisions[0]
    assert of_both.fft == pytest.approx(2 * of_one.fft) and of_both.direct == pytest.approx(2 * of_one.direct)
    forward = convert(nn.Conv2d(8, 8, 11, padding=5), X, passes=("forward",)).decisions[0]
    assert forward.direct == pytest.approx(of_one.direct / 3)


def test_a_module_that_is_the_layer() -> None:
    layer = nn.Conv2d(8, 8, 11, padding=5, padding_mode="circular")
    with torch.no_grad():
        want = layer(X)
        report = convert(layer, X)
        assert type(layer) is FFTConv2d and report.converted == ("",) and "(the module)" in str(report)
        torch.testing.assert_close(layer(X), want, rtol=1e-4, atol=1e-5)


def test_where() -> None:
    model, asked = nn.Sequential(*[nn.Conv2d(8, 8, k, padding=k // 2) for k in (11, 13, 1)]), []

    def where(name: str, layer: nn.Conv2d) -> bool:
        asked.append((name, layer))
        return name == "1"

    report = convert(model, X, where=where)
    assert report.converted == ("1",) and asked == [("0", model[0]), ("1", model[1])]
    assert "`where` says no" in report.decisions[0].reason


def test_a_dtype_without_kernels() -> None:
    report = convert(nn.Conv2d(8, 8, 5, dtype=torch.complex64), X.to(torch.complex64))
    assert not report.converted and "complex64" in report.decisions[0].reason


def test_a_model_without_layers() -> None:
    report = convert(nn.Linear(2, 2), torch.ones(2))
    assert not report.decisions and str(report).split()[:3] == ["layer", "is", "now"]


def test_a_call_that_fails_changes_nothing() -> None:
    model = Model()
    model.fails = True
    with pytest.raises(RuntimeError, match="of the model's own"):
        convert(model, X)
    assert type(model.large) is nn.Conv2d and model.training and model.drop.training
    assert not model.seen and not model.norm.running_mean.any() and not model.large._forward_pre_hooks
    with pytest.raises(InvalidOptionError, match="pass_name is 'backward'"):
        convert(model, X, passes=("backward",))
    with pytest.raises(InvalidTypeError, match=r"must be a torch\.nn\.Module"):
        convert(lambda x: x, X)
