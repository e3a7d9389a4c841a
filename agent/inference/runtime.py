# SPDX-License-Identifier: Apache-2.0
"""The two interpreters that can run a model: LiteRT, and the older tflite_runtime where a board has nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec
from numpy.typing import NDArray

from agent.errors import ModelError, printable

LITERT = "ai-edge-litert"
TFLITE = "tflite-runtime"

# Import names, in the order of preference.
_MODULES = {LITERT: "ai_edge_litert", TFLITE: "tflite_runtime"}

_TERMINATED = 128 + signal.SIGTERM  # with which a command leaves, from wherever it is

Detail = dict[str, Any]  # what an interpreter tells about one tensor


class Interpreter(Protocol):
    """The part of the interpreter interface that both runtimes share and this program uses."""

    def allocate_tensors(self) -> None: ...
    def get_input_details(self) -> list[Detail]: ...
    def get_output_details(self) -> list[Detail]: ...
    def get_signature_list(self) -> dict[str, dict[str, list[str]]]: ...
    def get_signature_runner(self, name: str) -> Any: ...  # noqa: ANN401 - its class has no common name
    def tensor(self, index: int) -> Callable[[], NDArray[Any]]: ...
    def invoke(self) -> None: ...
    def get_tensor(self, index: int) -> NDArray[Any]: ...


class Runtime(msgspec.Struct, frozen=True):
    """An imported runtime; ``interpreter`` makes one from ``model_content`` and ``num_threads``."""

    name: str
    version: str
    interpreter: Callable[..., Interpreter]


def open_runtime(names: tuple[str, ...] = (LITERT, TFLITE)) -> Runtime:
    """Import the first of ``names`` that is installed and loads.

    Raises ModelError if none is, with what each one said that is installed but does not load; or for an unknown name.
    """
    broken: list[str] = []
    for name in names:
        if name not in _MODULES:
            raise ModelError(f"unknown model runtime {printable(name)!r}; known: {', '.join(_MODULES)}")
        if not _is_installed(_MODULES[name]):
            continue
        try:
            package = importlib.import_module(_MODULES[name])
            module = importlib.import_module(f"{_MODULES[name]}.interpreter")
            return Runtime(name, str(package.__version__), module.Interpreter)
        except (Exception, SystemExit) as error:  # a library made for another numpy or processor raises anything
            if isinstance(error, SystemExit) and error.code == _TERMINATED:
                raise  # it is this program that is ended
            broken.append(f"{name} is installed but cannot be loaded ({printable(f'{type(error).__name__}: {error}')})")
    if broken:
        raise ModelError(f"{'; '.join(broken)}: install one that fits this Python, numpy and processor")
    raise ModelError(f"no model runtime is installed; install one of: {', '.join(names)}")


@contextmanager
def of_another_version(runtime: Runtime) -> Iterator[None]:
    """ModelError in the place of what it raises where a runtime lacks something that this program uses of it."""
    try:
        yield
    except (AttributeError, TypeError) as error:
        said = printable(f"{type(error).__name__}: {error}")
        raise ModelError(
            f"{runtime.name} {runtime.version} is not one that this program can use ({said}): install the package"
            " again, or another version of this library"
        ) from error


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: it is loaded, by something that is no module
        return True
