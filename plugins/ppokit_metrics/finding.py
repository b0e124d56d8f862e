"""Where a recipe's metric is by its name: one of ppokit's own, of a package or a path, or of the hub.

    rouge                       ppokit's own, where there is one of that name
    package:my-metrics/politeness   a folder that an installed distribution ships
    ./politeness.py, ./politeness   a script, or a folder with one of its name
    bertscore, org/name         the hub, over the network, or from the cache after that

What can be known of a script without running it, such as a package that it lacks, is said before a run.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants

from ppokit.plugin import PluginError, first_line

_HERE = Path(__file__).parent
OWN = tuple(sorted(folder.name for folder in _HERE.iterdir() if (folder / f"{folder.name}.py").is_file()))
"""Names of the metrics that are part of ppokit."""
OF_WHOLE_SETS = ("chrf", "f1", "sacrebleu")
"""Those whose numbers are of a whole set, and no means of numbers of single responses."""
TAKE_LISTS = ("chrf", "rouge", "sacrebleu")
"""Those of ppokit's own that take several references per response."""


def script_of(name: str) -> Path | None:
    """Where a metric's script is looked for on this machine; None for one of the hub.

    Raises:
        PluginError: a distribution is not installed, or its folder is not there.
    """
    if name in OWN:
        return _HERE / name / f"{name}.py"
    if name.startswith("package:"):
        package, _, inside = name.removeprefix("package:").partition("/")
        try:
            folder = Path(str(distribution(package).locate_file(inside))) if package and inside else None
        except PackageNotFoundError:
            raise PluginError(
                f"metric: {name!r} names the package {package!r}, which is not installed: "
                f"pip install {package}"
            ) from None
        if folder is None:
            raise PluginError(f"metric: got {name!r}; expected package:DISTRIBUTION/FOLDER")
        return folder if folder.suffix == ".py" else folder / f"{folder.name}.py"
    if name.endswith(".py") or name.startswith((".", "/", "~")) or Path(name).exists():
        path = Path(name).expanduser()
        return path if path.suffix == ".py" else path / f"{path.resolve().name}.py"
    return None


def own_name(name: str) -> str | None:
    """That of ppokit's own metric, also where it is given by its path; None of any other."""
    try:
        script = script_of(name)
    except PluginError:
        return None
    if script is None or script.resolve().parent.parent != _HERE.resolve():
        return None
    return script.stem


def code_of(name: str) -> dict[str, Path | None]:
    """Whose code a metric is, with its script where that is here; nothing for ppokit's own."""
    if own_name(name):
        return {}
    try:
        script = script_of(name)
    except PluginError:
        script = None
    return {name.removeprefix("package:").partition("/")[0] if name.startswith("package:") else name: script}


def is_here(name: str) -> bool:
    """Whether a metric's script is on this machine, and not on the hub."""
    return script_of(name) is not None


def is_offline() -> bool:
    """Whether the environment forbids to ask the hub."""
    evaluate = importlib.import_module("evaluate")
    return bool(constants.HF_HUB_OFFLINE or evaluate.config.HF_EVALUATE_OFFLINE)


def why_not(script: Path | None, error: Exception) -> str:
    """Why a metric cannot be loaded, and what to do about it.

    Args:
        script: None where it is one of the hub.
        error: that of `evaluate`, of the hub or of the script.
    """
    reason = first_line(error).rstrip(".")
    if script is not None:
        return f"{reason}; expected {script} to load: install what it imports, or correct it."
    if is_offline():
        reason = "HF_HUB_OFFLINE or HF_EVALUATE_OFFLINE is set, and it is not in the cache"
    return (
        f"{reason}. One of the hub is loaded over the network once, and from the cache after that. "
        f"{', '.join(OWN)} need no network; nor do a script's path and package:DISTRIBUTION/FOLDER."
    )


def problems(name: str) -> Iterator[str]:
    """What keeps a metric from being loaded, as far as files tell."""
    try:
        script = script_of(name)
    except PluginError as error:
        yield str(error)
        return
    if script is None:
        return
    if not script.is_file():
        yield f"metric: there is no file {script}"
        return
    missing = [module for module in _imports(script) if find_spec(module) is None]
    if missing and own_name(name):
        yield f"metric: {name} needs {', '.join(missing)}: pip install 'ppokit[metrics]'"
    elif missing:
        yield (
            f"metric: {name} imports {', '.join(missing)}, which is not installed: install what it belongs "
            f"to, such as by pip install {' '.join(missing)}"
        )


def _imports(script: Path) -> list[str]:
    """Top-level modules that a script imports, but for files beside it."""
    try:
        tree = ast.parse(script.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return []  # loading says what is wrong
    modules: dict[str, None] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules.update(dict.fromkeys(alias.name.partition(".")[0] for alias in node.names))
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules[node.module.partition(".")[0]] = None
    beside = {path.stem for path in script.parent.glob("*.py")} - {script.stem}
    return [module for module in modules if module not in beside]
