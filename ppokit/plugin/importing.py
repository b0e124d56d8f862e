"""Import an attribute by its path, `package.module:name`; the working directory can be imported from."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ppokit.errors import PluginError, in_one_paragraph


def import_attribute(path: str) -> Any:
    """What stands at a path: `package.module:name`, `module:Class.method` or `package.module.name`.

    Raises:
        PluginError: there is no such module or attribute, or importing the module failed.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon:
        module_name, _, attribute = path.rpartition(".")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise PluginError(
                f"{path!r}: there is no module {error.name!r}, neither in {here} nor installed"
            ) from error
        raise PluginError(f"{path!r}: module {module_name!r} needs a package: {error}") from error
    except (Exception, SystemExit) as error:
        raise PluginError(f"{path!r}: importing {module_name!r} failed: {in_one_paragraph(error)}") from error
    value = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise PluginError(f"{path!r}: {module_name!r} ({_file(module)}) has no {attribute!r}")
        value = getattr(value, part)
    return value


def _file(module: Any) -> str:
    return str(getattr(module, "__file__", None) or "built in")
