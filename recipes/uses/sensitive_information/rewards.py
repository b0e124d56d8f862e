"""What an answer names, and its rewards: for being whole, for inventing nothing, for passing over not all."""

import json


def spans(answer):
    """The pairs of kind and text that the JSON at an answer's beginning names; None for no such JSON."""
    try:
        named, _ = json.JSONDecoder().raw_decode(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(named, dict):
        return None
    lists = {kind: texts if isinstance(texts, list) else [texts] for kind, texts in named.items()}
    return {(kind, str(text)) for kind, texts in lists.items() for text in texts if text}


def expected_spans(reference):
    """Those of a reference, which must have some or `{}`."""
    expected = spans(reference)
    if expected is None:
        raise ValueError(f"got the reference {reference[:60]!r}; expected JSON of lists by kind, or {{}}")
    return expected


def exact(response, reference):
    """1 where the answer names all that the reference names, and nothing else; 0 elsewhere."""
    return float(spans(response) == expected_spans(reference))


def passed_over(response, reference):
    """-1 where the answer names nothing and there is something to find: `{}` is never wrong otherwise."""
    return -float(bool(expected_spans(reference)) and not spans(response))


def invented(prompt, response):
    """Minus the share of what an answer names that its message does not say; -1 where it is no JSON.

    The message is the prompt's first line.
    """
    named = spans(response)
    if named is None:
        return -1.0
    message = prompt.partition("\n")[0]
    return -sum(text not in message for _, text in named) / max(len(named), 1)
