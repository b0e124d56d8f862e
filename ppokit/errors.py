"""Errors that a user can act on: shown as one paragraph, exit code 2, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


class PpokitError(Exception):
    """Base of every error that names what came, what was expected and what to do."""

    exit_code = 2


class PluginError(PpokitError):
    """A plugin is missing, broken, ambiguous, or broke its contract."""


class DataError(PpokitError):
    """Prompts or other input data cannot be used."""


class ModelError(PpokitError):
    """A model or tokenizer cannot be used."""


class RewardError(PpokitError):
    """A reward provider failed for more responses than the recipe allows, or its calls do not end."""


class RolloutError(PpokitError):
    """A rollout engine failed to answer more often than the recipe's error budget allows."""


class TrainingError(PpokitError):
    """Training cannot go on: nothing trains, or a number is not finite."""


class NonFiniteError(TrainingError):
    """A loss or a gradient is NaN or infinite."""


class RunFolderError(PpokitError):
    """A run's folder cannot be written, or holds something else."""


class PpokitWarning(UserWarning):
    """Something that a person should look at while the command goes on; shown as one line."""


@contextmanager
def plugin_call(where: str, method: str) -> Iterator[None]:
    """Run a plugin's code: every call of a plugin goes through here, and its errors name it.

    Args:
        where: the component, its plugin and where the recipe names it.
        method: what was called, such as `estimate`.

    Raises:
        PpokitError: what the plugin raised, as one that names it; an error of ppokit's own keeps its class.
    """
    pid, settings = os.getpid(), _torch_settings()
    try:
        yield
        _check_torch_settings(settings)
    except RecipeError:
        raise
    except PpokitError as error:
        if where in str(error):
            raise
        # Not by its constructor, which may take more: what the error carries beside its text stays.
        named = type(error).__new__(type(error), f"{where}: {error}")
        vars(named).update(vars(error))
        raise named from error
    except (Exception, SystemExit, GeneratorExit) as error:
        raise PluginError(f"{where}: {method} failed: {in_one_paragraph(error)}") from error
    finally:
        end_if_forked(pid, f"{where}: {method}")


def _torch_settings() -> dict[str, object]:
    """What of torch holds for the whole process, where it has been imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "set_default_dtype": torch.get_default_dtype(),
        "set_default_device": torch.get_default_device(),
        "set_grad_enabled": torch.is_grad_enabled(),
    }


def _check_torch_settings(before: dict[str, object]) -> None:
    """A plugin leaves them as they were: they would change what the core and others compute.

    Raises:
        PluginError: it did not; they are put back.
    """
    after = _torch_settings()
    for name, value in before.items():
        if after[name] != value:
            unset = name == "set_default_device" and str(value) == "cpu"
            getattr(sys.modules["torch"], name)(None if unset else value)
            raise PluginError(
                f"it called torch.{name}({after[name]}), which holds for the whole process; expected "
                f"{value} after the call, as before it."
            )


def end_if_forked(pid: int, what: str) -> None:
    """End this process where it is a fork of the one that began: the run goes on in its parent alone.

    Args:
        pid: of the process that began.
        what: what was begun, for the message.
    """
    if os.getpid() != pid:
        os.write(2, f"ppokit: {what}: a process that it forked came back and is ended here\n".encode())
        os._exit(1)  # without the parent's exit handlers and buffers


def _says(error: BaseException) -> str:
    """The text of an error; empty where its class cannot make one."""
    try:
        return str(error)
    except BaseException:  # of a plugin's own class, whatever it raises
        return ""


def excerpt_of(value: object, most: int = 60) -> str:
    """The beginning of a value's repr, in one line; a plugin's own class may not have one."""
    try:
        text = repr(value)
    except Exception:  # also of an integer with thousands of digits
        return "what cannot be shown"
    return one_paragraph(text)[:most]


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its type where it says nothing."""
    lines = [line for line in _says(error).splitlines() if any(map(str.isalnum, line))]  # NLTK draws frames
    return one_paragraph(lines[0]) if lines else type(error).__name__


def in_one_paragraph(error: BaseException) -> str:
    """The kind of an error and all that it says, without line breaks."""
    return ": ".join(filter(None, (type(error).__name__, one_paragraph(_says(error)))))


def reason_of(error: BaseException) -> str:
    """Why a call failed, in one paragraph: an error of ppokit's own says so by itself."""
    return one_paragraph(str(error)) if isinstance(error, PpokitError) else in_one_paragraph(error)


def one_paragraph(text: str) -> str:
    """A text that a service or a model may have written, `printable` and without line breaks."""
    return printable(" ".join(text.split()))


def printable(text: str, keep: str = "") -> str:
    """A text that a terminal shows and does not obey.

    Args:
        keep: characters that stay, such as a line's end.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else _UNPRINTABLE for c in text)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    Attributes:
        key: dotted path in the recipe, e.g. `rewards[0].weight`.
        message: what came, what was expected, what to do.
        line: line number in the recipe file, from 1; None where no line holds the key.
    """

    key: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}, " if self.line is not None else ""
        return f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}"


class RecipeError(PpokitError):
    """A recipe has problems; all of them are listed, in the order of the file."""

    def __init__(self, problems: list[Problem], source: str = "recipe") -> None:
        self.problems = sorted(problems, key=lambda p: (p.line is None, p.line or 0))
        self.source = source
        count = len(problems)
        head = f"{source}: {count} problem{'' if count == 1 else 's'}"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived; state has been, or is about to be, saved.

    Not an Exception, so that no `except Exception` around a plugin swallows it.
    """

    def __init__(self, signum: int) -> None:
        self.signum = signum
        self.exit_code = 128 + signum
        super().__init__(f"signal {signum}")
