"""Call a function of the user's by its name: `package.module:function` or `path/to/file.py:function`."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from hessian_penalty.errors import UserError


def call_named(name: str) -> Any:
    """Import a module, call its function without arguments, and return what that returns.

    The current directory is importable meanwhile, as with `python -m`; for a path, its folder is too.

    Raises:
        UserError: the module cannot be imported, has no such function, or the function raises; the original exception
            is the cause.

    >>> call_named("platform:python_implementation")
    'CPython'
    """
    module_name, _, function_name = name.rpartition(":")
    is_file = module_name.endswith(".py")
    if is_file and not Path(module_name).is_file():
        raise UserError(f"{name}: the file {module_name} does not exist (current directory {os.getcwd()}).")
    if not function_name.isidentifier() or not (is_file or all(p.isidentifier() for p in module_name.split("."))):
        raise UserError(f"{name!r} must be package.module:function or path/to/file.py:function.")
    folders = [os.getcwd()] + ([str(Path(module_name).resolve().parent)] if is_file else [])
    importlib.invalidate_caches()  # the file may be newer than the last import
    with _importable(folders):
        try:
            module = _run_file(Path(module_name)) if is_file else importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{name}: {module_name} cannot be imported: {_described(error)}. "
                f"Looked in {folders[-1]} and the installed packages."
            ) from error
        function = getattr(module, function_name, None)
        if not callable(function):
            have = "is not a function" if hasattr(module, function_name) else "does not exist"
            defined = [key for key, value in vars(module).items() if _is_own_callable(value, module)]
            raise UserError(
                f"{name}: {function_name} {have} in {getattr(module, '__file__', None) or module_name}; "
                f"callables defined there: {', '.join(defined) or 'none'}."
            )
        try:
            return function()
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{name}: {function_name}() failed: {_described(error)}. "
                "It is called without arguments and must return the generator."
            ) from error


@contextmanager
def _importable(folders: list[str]) -> Iterator[None]:
    """Put folders in front of the import path for a while."""
    before = list(sys.path)
    sys.path[:0] = [folder for folder in reversed(folders) if folder not in before]
    try:
        yield
    finally:
        sys.path[:] = before


def _run_file(path: Path) -> ModuleType:
    """Import a file under a name of its own, so that it hides no installed package."""
    name = f"generator_source_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_own_callable(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _described(error: BaseException) -> str:
    """Return type and text of an exception, and the line of the user's code that raised it."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not f.filename.startswith("<") and f.filename not in (__file__, importlib.__file__)]
    if own and not isinstance(error, SyntaxError):  # whose text names the line itself
        text += f" ({own[-1].filename}, line {own[-1].lineno})"
    return text
