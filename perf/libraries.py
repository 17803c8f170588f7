"""Libraries that a benchmark may lack: each is imported where it is asked for, and its absence is told, not raised."""

import importlib
from types import ModuleType


def installed(name: str) -> ModuleType | None:
    """The module of that name, None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def lacking(error: ImportError) -> str:
    """What a failed import says in a table."""
    return f"{error.name or error} is not installed"
