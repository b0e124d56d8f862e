"""Answers to SNIPS' requests, which have none: in the manner of the recipe's own, with the request's words.

A request is answered where its kind's pattern finds what it is about. Held-out requests are answered in other
forms than those that are trained on, so that nothing is learned by heart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from ppokit.config.recipe import Recipe
from ppokit.rollout.load_policy import load_policy
from uses import RECIPES

LONGEST = 14
"""Words of a request at most: an answer repeats most of them."""
OTHER_PERSON = {"my": "your", "me": "you", "I": "you"}
"""Who asks, as who answers says it."""


@dataclass(frozen=True)
class Kind:
    """Requests of a kind.

    Attributes:
        pattern: finds what a request is about, as `what`.
        train: forms of an answer to those that are trained on.
        held_out: likewise, to those that are held out.
    """

    pattern: str
    train: tuple[str, str]
    held_out: tuple[str, str]


KINDS = {
    "AddToPlaylist": Kind(
        r"(?i:(?:please )?add) (?P<what>.+)",
        (
            "I've added {what}. Shall I play it now, or keep it for later?",
            "Okay, I'm adding {what}. Would you like it at the top of the list?",
        ),
        (
            "Done, I added {what}. Do you want to hear it next?",
            "Sure, I'll add {what}. Should I look for more of that kind, too?",
        ),
    ),
    "BookRestaurant": Kind(
        r"(?i:.*?\bbook) (?P<what>an? .+)",
        (
            "I'll book {what}. What time would you like, and should it be inside?",
            "I can book {what}. Whose name shall I give them?",
        ),
        (
            "Sure, I'm booking {what}. When will you be there, and is there anything you don't eat?",
            "Okay, I'll try to book {what}. Shall I look for another place if it's full?",
        ),
    ),
    "GetWeather": Kind(
        r".*\b(?P<what>in [A-Z].+)",
        (
            "I'll look up the weather {what}. Do you want the hours of rain, too?",
            "Let me see what it will be like {what}. Shall I tell you the temperature as well?",
        ),
        (
            "I'm checking the forecast {what}. Would you like to know when to leave the umbrella at home?",
            "One moment, I'll find the forecast {what}. Should I warn you when it changes?",
        ),
    ),
    "PlayMusic": Kind(
        r"(?i:(?:please )?play) (?P<what>.+)",
        (
            "I'm playing {what} now. Is it loud enough, or shall I turn it up?",
            "Okay, here comes {what}. Would you like it in the kitchen, too?",
        ),
        (
            "Sure, I'll play {what}. Should I stop after an hour?",
            "Starting {what}. Do you want me to go on with something like it?",
        ),
    ),
    "RateBook": Kind(
        r"(?i:give) (?P<what>.+)",
        (
            "Thank you, I've given {what}. Would you like to add a few words?",
            "Okay, I gave {what}. Shall I show you what to read next?",
        ),
        (
            "Done, I'll give {what}. Do you want to say what you liked?",
            "I'm giving {what}, as you said. Should your friends see it?",
        ),
    ),
    "SearchCreativeWork": Kind(
        r"(?i:.*?\b(?:find|look for|look up|looking for|search for|search|get)(?: me)?) (?P<what>.+)",
        (
            "I'm looking for {what}. Would you like to buy it, or only to read about it?",
            "I'll find {what} for you. Do you know who made it?",
        ),
        (
            "Sure, I'll search for {what}. Shall I send what I find to your phone?",
            "Let me look for {what}. Should I show you pictures, too?",
        ),
    ),
    "SearchScreeningEvent": Kind(
        r"I want to (?P<what>see .+)",
        (
            "I'll look up when you can {what}. What time suits you, and how many are you?",
            "Let me find out where you can {what}. Shall I get the tickets, too?",
        ),
        (
            "Sure, I'll check when you could {what}. Would you rather go today or tomorrow?",
            "I'm looking for a cinema where you can {what}. How far would you go?",
        ),
    ),
}
"""By SNIPS' intent."""


def answer(request: str, intent: str, *, part: str, index: int) -> str | None:
    """An answer, with what the request is about; None where that is not found, or the request is long.

    Args:
        part: train or held_out.
        index: of the request, by which forms take turns.
    """
    kind = KINDS[intent]
    match = re.fullmatch(kind.pattern, " ".join(request.split()).rstrip(".?!"))
    if match is None or len(request.split()) > LONGEST:
        return None
    what = re.sub(r"\b(my|me|I)\b", lambda own: OTHER_PERSON[own[0]], match["what"])
    forms = kind.train if part == "train" else kind.held_out
    return forms[index % 2].format(what=what)


def own_answers(use: str, prompts: Sequence[str]) -> list[str]:
    """The untrained model's likeliest answers, in float32."""
    recipe = yaml.safe_load((RECIPES / use / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["model"]["dtype"] = "float32"
    recipe["rollout"] = {"max_new_tokens": recipe["rollout"]["max_new_tokens"]}
    policy = load_policy(Recipe.from_dict(recipe), None)
    return [text.strip() for text in policy.generate(prompts, n=None, seed=0).responses]
