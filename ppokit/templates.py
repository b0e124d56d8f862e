"""The text that a reward model reads, made of a prompt and a response."""

from __future__ import annotations

SETTINGS = "ppokit_reward.json"
"""In the folder of a fitted reward model: the template that it reads, among other things."""


def fill(template: str, prompt: str, response: str) -> str:
    """A template of `{prompt}` and `{response}`, filled in.

    A response to a plain prompt begins with its own blank: after the template's blank it is left out, so that
    the text is that of a rated response, which has none.
    """
    if " {response}" in template:
        response = response.removeprefix(" ")
    return template.format(prompt=prompt, response=response)
