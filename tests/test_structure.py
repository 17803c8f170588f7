"""The shape of the package: imports go downward only, frameworks stay out, public docstrings have examples."""
import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import numba_fftconv

PACKAGE = "numba_fftconv"
ROOT = Path(numba_fftconv.__file__).parent
# A module imports from the layers below its own and, within its layer, from the modules named after it.
LAYERS = [
    ["examples.train_ddp", "examples.train_digits", "examples.train_spectral", "examples.digits_figure",
     "examples.torch_net", "examples.net", "examples.run", "examples.digits", "examples.extras", "examples"],
    ["dask", "torch", "torch.convert", "torch.spectral", "torch.layer", "torch.functional", "torch.batching",
     "torch.derivatives", "torch.operator"],
    ["__main__", "demo", "tiny", "scene", "inspect.command", "inspect.page", "inspect.text", "inspect.custom",
     "inspect.library", "inspect.report", "inspect.compiled", "inspect"],
    [""],
    ["api", "stages"],
    ["plan", "autotune"],
    ["device"],
    ["cpu.call", "cuda.stages", "cuda.call", "cuda.repeat", "cpu.stages"],
    ["explain", "tuning", "spectral"],
    ["cpu.engine", "cpu.model", "cuda.engine"],
    ["geometry", "options", "arrays"],
    ["cpu.threads", "cpu.worker", "cpu.program", "cpu.schedule"],
    ["cpu.product", "cpu.tiles", "cpu.fft2d"],
    ["cpu.codelets", "cpu.planes", "cpu.lines", "cpu.butterfly", "cpu.samples", "cpu.vector", "cpu.registers",
     "cpu.by_address", "cpu"],
    ["cuda.arrays", "cuda.simulator"],
    ["cuda.banks", "cuda.counts", "cuda.machine_code"],
    ["cuda.ptx_machine", "cuda.ptx_machine.launch", "cuda.ptx_machine.block"],
    ["cuda.ptx_machine.table", "cuda.ptx_machine.races", "cuda.ptx_machine.memory", "cuda.ptx_machine.program"],
    ["cuda.driver", "cuda.libraries"],
    ["cuda.columns_pass", "cuda.rows_pass"],
    ["cuda.cubins", "cuda.fft2d", "cuda.pointwise", "cuda.product", "cuda.sums", "cuda.schedule", "cuda.two_pass"],
    ["cuda.long_fft", "cuda.teeth"],
    ["cuda.ffma", "cuda.mma", "cuda.accumulators", "cuda.copies", "cuda.emit", "cuda.tensor_tiles", "cuda.rows",
     "cuda.tiles", "cuda.kernels", "cuda.block_tile", "cuda.planes", "cuda.butterfly", "cuda.intrinsics"],
    ["cuda.memory", "cuda.occupancy", "cuda.toolchain", "cuda.middle", "cuda"],
    ["gpus", "dlpack"],
    ["cache", "passes", "errors", "integers", "dtypes"],
]
ORDER = [name for layer in LAYERS for name in layer]
FRAMEWORKS = {"torch", "scipy", "sklearn", "matplotlib", "cupy", "jax", "dask", "PIL"}
DRAWING = LAYERS[0] + LAYERS[2]  # import matplotlib, and the examples what else they use, once they run
IN_TORCH = {"examples.torch_net", "examples.train_ddp", "examples.train_spectral"}


def modules() -> dict[str, Path]:
    """Every module of the package, by its name below the package: '' is the package itself."""
    paths = {path.relative_to(ROOT).with_suffix(""): path for path in sorted(ROOT.rglob("*.py"))}
    return {".".join(part for part in name.parts if part != "__init__"): path for name, path in paths.items()}


MODULES = modules()


def absolute(node: ast.ImportFrom, module: str) -> str:
    """What a from-import names, with its dots resolved."""
    if not node.level:
        return node.module or ""
    is_package = MODULES[module].name == "__init__.py"
    here = [PACKAGE, *filter(None, module.split("."))]
    up = node.level - (1 if is_package else 0)
    return ".".join([*here[:len(here) - up], *([node.module] if node.module else [])])


def imported(module: str) -> Iterator[str]:
    """The full names that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module)
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(f"{PACKAGE}.")
                yield f"{PACKAGE}.{inner}" if inner in MODULES else base


def inside(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    whole = (name.split(".") for name in imported(module))
    return {".".join(parts[1:]) for parts in whole if parts[0] == PACKAGE}


def test_every_module_has_a_layer() -> None:
    unknown = set(MODULES) - set(ORDER)
    assert not unknown, f"{sorted(unknown)}: say in LAYERS where they belong"


@pytest.mark.parametrize("module", MODULES, ids=lambda name: name or PACKAGE)
def test_imports_go_downward(module: str) -> None:
    upward = [name for name in inside(module) if ORDER.index(name) <= ORDER.index(module)]
    assert not upward, f"{module or PACKAGE} imports {upward}, which stand above it"


def test_imports_make_no_cycle() -> None:
    """Of itself, whatever the table above says."""
    left = {module: inside(module) - {module} for module in MODULES}
    while free := [module for module, below in left.items() if not below & set(left)]:
        for module in free:
            del left[module]
    assert not left, f"these import one another: {left}"


def test_the_walk_sees_imports() -> None:
    """The test of the tests: known imports of each form are found."""
    assert {"plan", "errors", "geometry"} <= inside("api")
    assert {"api", "plan", "errors"} <= inside("")
    assert any(name.split(".")[0] == "numba" for name in imported("cpu.fft2d"))
    assert "cache" in inside("cpu.fft2d")


@pytest.mark.parametrize("module", MODULES, ids=lambda name: name or PACKAGE)
def test_no_framework_is_imported_by_a_module(module: str) -> None:
    """A folder named after a framework is for it; the demo draws with matplotlib once it runs; all else leaves
    frameworks to the caller, functions included.
    """
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    lazy = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and not (module in DRAWING and id(node) in lazy):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [absolute(node, module)]
            others = FRAMEWORKS - {"torch" if module in IN_TORCH else module.split(".")[0]}
            assert not {name.split(".")[0] for name in names} & others, ast.unparse(node)


@pytest.mark.parametrize("work", ["", "n.conv2d(np.ones((1, 1, 8, 8), 'f4'), np.ones((1, 1, 3, 3), 'f4'))"])
def test_no_framework_is_loaded(work: str) -> None:
    """Neither by the import nor by a call; what Numba itself loads is Numba's affair."""
    script = f"""
import sys
import numpy as np
import numba, numba.core.caching, numba.extending
before = set(sys.modules)
import numba_fftconv as n
{work}
print(*{FRAMEWORKS!r}.intersection(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == []


# ---- docstrings, whose examples pytest runs as doctests

EXCEPTIONS = {name for name in numba_fftconv.__all__ if name.endswith("Error")}


# Called by the doors, which show them.
INNER = {"build", "run", "run_backward", "require", "segments", "windows", "maps", "smallest_fft"}


def public() -> dict[str, object]:
    """Every public function and class, and the public methods of the classes."""
    named = {name: getattr(numba_fftconv, name) for name in numba_fftconv.__all__ if name not in EXCEPTIONS}
    called: dict[str, object] = {name: value for name, value in named.items() if callable(value)}
    for name, value in named.items():
        if inspect.isclass(value):
            methods = {m for m in vars(value) if not m.startswith("_") and callable(getattr(value, m))} - INNER
            called.update({f"{name}.{method}": getattr(value, method) for method in sorted(methods)})
    return called


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_docstring_has_an_example(name: str) -> None:
    """Of a class, the docstring itself or that of a method which makes one."""
    text = inspect.getdoc(PUBLIC[name]) or ""
    first = text.partition("\n\n")[0]
    assert first.endswith("."), f"{name} has no first sentence"
    makers = [n for n in PUBLIC if n.startswith(f"{name}.") and inspect.ismethod(PUBLIC[n])]
    shown = [text, *(inspect.getdoc(PUBLIC[maker]) or "" for maker in makers)]
    assert any("Example" in each and ">>>" in each for each in shown), f"{name} has no example"


@pytest.mark.parametrize("name", sorted(EXCEPTIONS))
def test_every_exception_says_when_it_is_raised(name: str) -> None:
    error = getattr(numba_fftconv, name)
    assert issubclass(error, numba_fftconv.FFTConvError) and vars(error)["__doc__"]


@pytest.mark.parametrize("module", MODULES, ids=lambda name: name or PACKAGE)
def test_every_module_says_what_it_is(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body


def test_public_names_are_those_that_are_promised() -> None:
    promised = {
        "conv2d", "conv2d_input_grad", "conv2d_weight_grad", "conv2d_backward", "plan_conv2d", "clear_cache",
        "ConvPlan", "ConvGeometry", "SpectralWeight", "SpectralInput", "FFTConvError", "InvalidShapeError",
        "InvalidOptionError", "InvalidTypeError", "UnsupportedError", "WorkspaceError", "DeviceMismatchError",
        "PlanMismatchError",
        "CudaError", "__version__", "transform", "multiply", "inverse", "frequencies",
    }
    assert promised == set(numba_fftconv.__all__)
