"""What an answer names, and its rewards: for being right as a whole, and for inventing nothing."""

import json


def spans(answer):
    """The pairs of kind and text that an answer names; None where it is no JSON of the right form."""
    try:
        named = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(named, dict) or not all(isinstance(texts, list) for texts in named.values()):
        return None
    return {(kind, str(text)) for kind, texts in named.items() for text in texts}


def exact(response, reference):
    """1 where the answer names all that the reference names, and nothing else; 0 elsewhere."""
    return float(spans(response) == spans(reference))


def invented(prompt, response):
    """Minus the share of what an answer names that its message does not say; -1 where it is no JSON."""
    named = spans(response)
    if named is None:
        return -1.0
    message = prompt.rpartition("\n")[0]
    return -sum(text not in message for _, text in named) / max(len(named), 1)
