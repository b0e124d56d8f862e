"""The text that a reward model reads: prompt and response in a template, as words and as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ppokit.errors import ModelError, first_line
from ppokit.plugin.chats import chat_of

CHAT = "chat"
"""In the place of a template: prompt and response as a chat, through the tokenizer's own chat template."""

RESPONSE_MASK = "response_mask"
"""Name of the mask of the response's tokens, for a model that reads one."""


def fill(template: str, prompt: str, response: str) -> str:
    """A template of `{prompt}` and `{response}`, filled in.

    A response to a plain prompt begins with its own blank: after the template's blank it is left out, so that
    the text is that of a rated response, which has none.
    """
    if " {response}" in template:
        response = response.removeprefix(" ")
    return template.format(prompt=prompt, response=response)


def fill_chat(tokenizer: Any, prompt: str, response: str) -> str:
    """A prompt, text or a `ChatPrompt`, and its response as the tokenizer's chat template writes them.

    Raises:
        ModelError: the template refuses them.
    """
    from jinja2 import TemplateError

    chat = chat_of(prompt)
    messages = [*chat.messages, {"role": "assistant", "content": response}]
    try:
        return str(tokenizer.apply_chat_template(messages, tools=chat.tools, tokenize=False))
    except (TemplateError, TypeError, ValueError) as error:
        raise ModelError(
            f"template: the reward model's chat template refuses: {first_line(error)}"
        ) from error


def response_mask(encoding: Any) -> list[int]:
    """1 from the first token of the second text on: a response without a token has the one that ends it.

    Args:
        encoding: of one pair of texts, by a tokenizer of the library tokenizers.
    """
    texts = encoding.sequence_ids()
    start = texts.index(1) if 1 in texts else len(texts) - 1
    return [int(index >= start) for index in range(len(texts))]


def truncation(encoding: Any, limit: int) -> str:
    """How a tokenizer cuts a text to a limit: of a pair the first text, the prompt, as long as there is one.

    Args:
        encoding: of the whole text, or the pair.
        limit: tokens that may stay.
    """
    texts = encoding.sequence_ids()
    spare = texts.count(0) - (len(texts) - limit)
    return "only_first" if 1 in texts and spare > 0 else "longest_first"


def padding_of(tokenizer: Any, *, marked: bool) -> dict[str, int]:
    """What a model reads of a text, each with the value that stands behind the text's end.

    Args:
        tokenizer: of transformers, with a pad token.
        marked: whether the model is told which tokens are the response's.
    """
    values = {"token_type_ids": tokenizer.pad_token_type_id, "attention_mask": 0}
    values["input_ids"] = tokenizer.pad_token_id
    wanted = ("input_ids", "attention_mask", *tokenizer.model_input_names)
    pad = {key: values[key] for key in dict.fromkeys(wanted) if key in values}
    return {**pad, RESPONSE_MASK: 0} if marked else pad


def encode(
    tokenizer: Any,
    templates: Sequence[str],
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    limit: int | None,
    pad: Mapping[str, int],
) -> tuple[list[dict[str, list[int]]], int]:
    """Texts as token ids and what else a model reads, not padded.

    Args:
        tokenizer: it cuts on the left.
        templates: one, which may be `CHAT`, or two that the tokenizer joins as a pair.
        limit: the most tokens of a text; of a marked pair the prompt is truncated first.
        pad: see `padding_of`.

    Returns: each text, and how many of them were truncated.
    """
    marked, truncated = RESPONSE_MASK in pad, 0
    encoded = []
    chat = tuple(templates) == (CHAT,)
    options = {"add_special_tokens": not chat, "return_attention_mask": True, "verbose": False}
    for prompt, response in zip(prompts, responses, strict=True):
        if chat:
            texts = [fill_chat(tokenizer, prompt, response)]
        else:
            texts = [fill(template, prompt, response) for template in templates]
        encoding = tokenizer(*texts, **options)
        if limit is not None and len(encoding["input_ids"]) > limit:
            truncated += 1
            strategy = truncation(encoding, limit) if marked else True
            encoding = tokenizer(*texts, truncation=strategy, max_length=limit, **options)
        one = {key: list(encoding[key]) for key in pad if key != RESPONSE_MASK}
        if marked:
            one[RESPONSE_MASK] = response_mask(encoding)
        if not one["input_ids"]:  # an empty text, and a tokenizer that adds nothing to it
            seen = ("attention_mask", RESPONSE_MASK)
            one = {key: [1 if key in seen else value] for key, value in pad.items()}
        encoded.append(one)
    return encoded, truncated
