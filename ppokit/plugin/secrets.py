"""Secrets of plugins: a recipe holds an environment variable's name, and nothing else is stored or shown."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from ppokit.errors import PluginError

_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
_HIDDEN = "***"
_SHORTEST = 6  # digits of base64 that are no chance
_SECRET = re.compile(
    r"(?:key|(?:api|access)[-_]?keys|token|secret|pwd|passw(?:or)?d|passphrase|cookie|auth|authorization"
    r"|authentication|credentials?|sig|signature)(?:$|[-_])",
    re.IGNORECASE,
)
_NO_SECRET = re.compile(
    r"(?:^|[-_])(?:bos|eos|pad|unk|sep|cls|mask|start|end|stop)[-_]token|[-_](?:header|env|column)$",
    re.IGNORECASE,
)


def names_secret(name: str) -> bool:
    """Whether a secret is likely behind this name of an option, of a header or in a query: `hf_token`.

    Not tokens that models read, such as `eos_token`, nor what says where a secret goes: `key_header`.
    """
    return _SECRET.search(name) is not None and _NO_SECRET.search(name) is None


def _forms(secret: str) -> set[str]:
    """What a secret may be written as."""
    raw = os.fsencode(secret)
    escaped = {quote(raw, safe="/"), quote(raw, safe=""), quote_plus(raw)}
    lower = {re.sub("%..", lambda escape: escape[0].lower(), form) for form in escaped}
    plain = {secret, repr(secret)[1:-1], repr(raw)[2:-1], json.dumps(secret)[1:-1]}
    return plain | escaped | lower | set(_in_base64(raw))


def _in_base64(raw: bytes) -> Iterator[str]:
    """In both alphabets: alone, and within something longer, such as Basic's `user:secret`.

    There it begins at one of three places, and its first and last digit are its neighbours' too.
    """
    for encode in (b64encode, urlsafe_b64encode):
        yield encode(raw).decode()
        for before in range(3):
            digits = encode(bytes(before) + raw).decode()
            inner = digits[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
            if len(inner) >= _SHORTEST:
                yield inner


class EnvSecret:
    """An option whose value stands in an environment variable: `key_env: OPENAI_API_KEY`.

    Attributes:
        name: of the variable.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def value(self) -> str:
        """What the variable holds.

        Raises:
            PluginError: it is not set.
        """
        secret = os.environ.get(self.name, "").strip()
        if not secret:
            raise PluginError(f"the environment variable {self.name} is not set, or empty")
        return secret

    def hide(self, text: str) -> str:
        """The text without the secret, for messages that repeat it.

        Also without it as Python and JSON write it, as it is escaped in addresses, and in base64.
        """
        secret = os.environ.get(self.name, "").strip()
        for form in sorted(filter(None, _forms(secret)), key=len, reverse=True):
            text = text.replace(form, _HIDDEN)
        return text

    def problems(self) -> list[str]:
        """What a component's `check` says of it."""
        if os.environ.get(self.name, "").strip():
            return []
        return [f"the environment variable {self.name} is not set, or empty"]

    def __repr__(self) -> str:
        return f"EnvSecret({self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EnvSecret) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        def parse(text: str) -> EnvSecret:
            if not _NAME.fullmatch(text):  # it may be the secret itself
                raise ValueError(
                    "this is not the name of an environment variable; expected one in capitals, such as "
                    "OPENAI_API_KEY, which holds the secret",
                )
            return cls(text)

        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(parse, core_schema.str_schema()),
            python_schema=core_schema.union_schema(
                [
                    core_schema.is_instance_schema(cls),
                    core_schema.no_info_after_validator_function(parse, core_schema.str_schema()),
                ]
            ),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda secret: secret.name),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^{_NAME.pattern}$"}
