"""What the examples need beyond the package itself, and which extra of it brings that."""

from importlib.util import find_spec

from ..errors import FFTConvError

EXTRAS = {"sklearn": "examples", "matplotlib": "examples", "torch": "torch"}  # by the name that is imported
PACKAGES = {"sklearn": "scikit-learn"}  # where they are installed by another name


class MissingExtraError(FFTConvError, ImportError):
    """A library of an extra that is not installed; the message names the extra."""


def require(*libraries: str) -> None:
    """Raise MissingExtraError unless all of these libraries are installed; none is imported.

    Parameters
    ----------
    libraries : names of `EXTRAS`.

    Raises
    ------
    MissingExtraError

    Examples
    --------
    >>> require()
    """
    missing = [library for library in libraries if find_spec(library) is None]
    if missing:
        extras = ",".join(dict.fromkeys(EXTRAS[library] for library in missing))
        said = " and ".join(PACKAGES.get(library, library) for library in missing)
        raise MissingExtraError(f"{said} must be installed for this: pip install 'numba_fftconv[{extras}]'")
