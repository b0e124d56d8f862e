"""Checks of a component's options, and of the object that they build."""

from __future__ import annotations

import inspect
import json
import pickle
from collections.abc import Iterable
from typing import Any

from pydantic import SecretStr, ValidationError

from ppokit.config.hooks import METHOD, has_method
from ppokit.config.settings import CHOSEN
from ppokit.errors import PpokitError, in_one_paragraph
from ppokit.messages import listed
from ppokit.plugin.event_methods import event_methods
from ppokit.plugin.protocols import AdvantageWeighting, CheckContext
from ppokit.plugin.secrets import names_secret
from ppokit.testing.calls import arguments, close, exercise, raw, sample
from ppokit.testing.checks import Fault, check
from ppokit.testing.subject import Subject

_NONSENSE: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    float("nan"),
    float("inf"),
    "",
    "nonsense \N{GRINNING FACE}",
    [],
    [{}],
    {"nonsense": 1},
)


@check("builds")
def builds(subject: Subject) -> None:
    """Building gives an object with the method of its kind, which takes what the core gives it."""
    from ppokit.rewards.calls import ProviderCalls

    built = subject.build()
    thing, method = built.instance, METHOD.get(subject.kind)
    if method is None:
        if not event_methods(thing, subject.where):
            raise Fault(f"it built a {type(thing).__name__} that hears of no event; mark one with @hookimpl")
        return
    if subject.kind == "rewards":
        ProviderCalls(built)
        close(built)
        return
    if isinstance(thing, AdvantageWeighting):
        method = "advantage_weights"
    if not has_method(subject.kind, thing) or not callable(getattr(thing, method)):
        raise Fault(
            f"it built a {type(thing).__name__} without the method {method}; expected an object that has it"
        )
    given = arguments(subject, sample(subject))
    try:
        inspect.signature(getattr(thing, method)).bind(*given)
    except TypeError as error:
        raise Fault(
            f"{method} cannot be called with {len(given)} arguments: {error}; see docs/plugins.md"
        ) from error
    close(built)


@check("answers")
def answers(subject: Subject) -> None:
    """It can be called: on twelve short responses, with the columns of its first example."""
    try:
        exercise(subject)
    except PpokitError:
        raise
    except (Exception, SystemExit) as error:
        advice = ""
        if isinstance(error, KeyError) or "missing" in str(error):
            known = f" (now {listed(subject.row)})" if subject.row else ""
            advice = (
                f"; columns of the data set that it reads belong in the row of its first example{known}, "
                "such as Example(better=..., row={'answer': '42'}), or in row= of conformance"
            )
        raise Fault(f"it cannot be called: {in_one_paragraph(error)}{advice}") from error


@check("options_valid")
def options_valid(subject: Subject) -> None:
    """Options are read, and written into a run's recipe and read again as they were."""
    options = subject.build().options
    written = json.loads(json.dumps(options.model_dump(mode="json", by_alias=True)))
    try:
        again = type(options).model_validate(written)
    except ValidationError as error:
        raise Fault(
            f"its options {written} cannot be read again: {error.errors()[0]['msg']}; a run writes them "
            "into its "
            "recipe.yaml, so let each field take what it is written as"
        ) from error
    if again.model_dump() != options.model_dump():
        raise Fault(
            f"its options come back as {again!r} from {options!r}; let each field take what it is written as"
        )


@check("options_unknown")
def options_unknown(subject: Subject) -> None:
    """An unknown key is refused."""
    try:
        subject.validated(**{"no_such_option": 1})
    except ValidationError as error:
        if any(problem["loc"] == ("no_such_option",) for problem in error.errors()):
            return
        raise
    raise Fault(
        "its options take the unknown key 'no_such_option', and so a misspelt one; derive them from "
        "ppokit.plugin.Options, which refuses it"
    )


@check("options_nonsense")
def options_nonsense(subject: Subject) -> None:
    """Nonsense in an option is refused when the recipe is read, with a sentence."""
    for name, field in subject.component.options.model_fields.items():
        key = field.alias or name
        for value in _NONSENSE:
            try:
                options = subject.validated(**{key: value})
            except ValidationError:
                continue
            except Exception as error:
                raise Fault(
                    f"the option {key!r} as {value!r} ends in {type(error).__name__}: {error}; raise "
                    "ValueError "
                    "in a validator, which becomes a problem of the recipe"
                ) from error
            kept = getattr(options, name)
            if isinstance(kept, float) and kept - kept != 0:
                raise Fault(
                    f"the option {key!r} takes {value!r}; derive the options from ppokit.plugin.Options, or "
                    "give the field allow_inf_nan=False"
                )


@check("options_names")
def options_names(subject: Subject) -> None:
    """No option has the name of a key that is the core's own."""
    core = set(CHOSEN[subject.kind].model_fields)
    fields = subject.component.options.model_fields
    if taken := sorted(core & {field.alias or name for name, field in fields.items()}):
        raise Fault(f"its option {listed(map(repr, taken))} is a key of the core's own; rename it")


@check("options_secrets")
def options_secrets(subject: Subject) -> None:
    """A secret is named by its environment variable: options stand in a run's files."""
    for name, field in subject.component.options.model_fields.items():
        if names_secret(name) and field.annotation in (str, str | None, SecretStr, SecretStr | None):
            raise Fault(
                f"its option {field.alias or name!r} holds a secret, which a run writes into recipe.yaml; "
                "give it the type ppokit.plugin.EnvSecret, to which a recipe gives the name of a variable"
            )


@check("recipe_check")
def recipe_check(subject: Subject) -> None:
    """What it checks of a recipe comes as sentences, also where nothing is known of the data."""
    if subject.component.check is None:
        return
    for columns in (None, (), ("prompt", *subject.row)):
        problems = subject.component.check(subject.validated(), CheckContext(columns, 4))
        if not isinstance(problems, Iterable) or isinstance(problems, str):
            raise Fault(f"check gives a {type(problems).__name__}; expected sentences: yield each problem")
        for sentence in problems:
            if not isinstance(sentence, str):
                raise Fault(f"check gives {sentence!r} among its problems; expected sentences")


@check("events")
def events(subject: Subject) -> None:
    """Methods named like events are marked, and name only arguments that their event gives."""
    event_methods(subject.build().instance, subject.where)


@check("pickles")
def pickles(subject: Subject) -> None:
    """Options and answers can be sent to another process."""
    built = subject.build()
    things: dict[str, Any] = {"its options": built.options.model_dump(by_alias=True)}
    if subject.kind in ("rewards", "advantages", "rollout", "evaluators"):
        things["what it returns"] = raw(subject, built, arguments(subject, sample(subject)))
    for name, thing in things.items():
        try:
            pickle.loads(pickle.dumps(thing))  # of this process's own making
        except Exception as error:
            raise Fault(
                f"{name} cannot be pickled: {error}; processes exchange it, so put nothing into it that is "
                "defined inside a function, or is open"
            ) from error
    close(built)
