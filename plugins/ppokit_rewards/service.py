"""Posts JSON to a service over the run's HTTP client, bounded in size and redirects, and shows no secrets.

Answers are not to be compressed, since a few kilobytes can become gigabytes before anybody counts them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator, model_validator

from ppokit.plugin import EnvSecret, Options, PluginError, first_line, http_client, names_secret

if TYPE_CHECKING:
    import httpx2

_EXCERPT = 200  # characters of an answer in a message
_KEEP_POST = (307, 308)
_REDIRECTS = (301, 302, 303)  # that do not
_RETRYABLE = {408, 409, 425, 429}
_CREDENTIALS = re.compile(r"\s*(?:bearer|basic)\s+\S", re.IGNORECASE)
_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)


class ServiceError(Exception):
    """A service did not answer as it should.

    Attributes:
        retryable: whether asking again may help.
        retry_after: seconds that the service asked to wait for.
        status: of the answer; 0 without one.
    """

    def __init__(
        self, text: str, *, retryable: bool = True, retry_after: float = 0.0, status: int = 0
    ) -> None:
        super().__init__(text)
        self.retryable, self.retry_after, self.status = retryable, retry_after, status


class ServiceOptions(Options):
    url: str = Field(min_length=1, description="Address of the service, http:// or https://.")
    key_env: EnvSecret | None = Field(
        None, description="Environment variable that holds the key, sent as Authorization: Bearer KEY."
    )
    key_header: str = Field(
        "Authorization",
        min_length=1,
        description="Header of the key; in another one, such as api-key, it is sent as it is.",
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="Further headers; stored with the recipe, so put no key here."
    )
    max_bytes: int = Field(16_000_000, gt=0, description="Longest answer, in bytes.")
    redirects: bool = Field(False, description="Whether redirects are followed, at most five.")

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(url)
        written = url.isprintable() and " " not in url
        if parts.scheme not in ("http", "https") or not parts.hostname or not written:
            raise ValueError("expected an address such as http://127.0.0.1:8000/score")
        if parts.port == 0:  # beyond 65535 it raises an error of its own
            raise ValueError("got port 0; expected 1 to 65535")
        if parts.username or parts.password:
            raise ValueError("holds a user or password, which would be stored with the run; use key_env")
        for name, _ in parse_qsl(parts.query, keep_blank_values=True):
            if names_secret(name):
                raise ValueError(f"its {name} would be stored with the run; use key_env")
        return url

    @field_validator("headers")
    @classmethod
    def _holds_no_key(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if names_secret(name) or _CREDENTIALS.match(value):
                raise ValueError(f"{name} would be stored with the run; use key_env, and key_header")
            if not (_HEADER_NAME.fullmatch(name) and value.isascii() and value.isprintable()):
                raise ValueError(f"{name!r} or its value is none that a header may have")
        return headers

    @model_validator(mode="after")
    def _sends_no_key_elsewhere(self) -> ServiceOptions:
        if self.redirects and self.key_header != "Authorization":
            raise ValueError(
                f"redirects: true would send {self.key_header} to whatever the service names; leave one out"
            )
        return self


async def post(options: ServiceOptions, path: str, payload: Mapping[str, Any]) -> Any:
    """The JSON that a service answers.

    Args:
        path: behind the options' address.

    Raises:
        ServiceError: no answer, a status that is no success, too long an answer, or no JSON.
        PluginError: the key's variable is not set, or holds no key.
    """
    import httpx2

    parts = urlsplit(options.url)
    url = parts._replace(path=parts.path.rstrip("/") + path).geturl() if path else options.url
    headers = {"Content-Type": "application/json", **options.headers, "Accept-Encoding": "identity"}
    if options.key_env is not None:
        for problem in key_problems(options):
            raise PluginError(problem)
        scheme = "Bearer " if options.key_header == "Authorization" else ""
        headers[options.key_header] = scheme + options.key_env.value()
    content = _encoded(payload)
    where = _shown(url)
    try:
        request = http_client().stream(
            "POST", url, content=content, headers=headers, follow_redirects=options.redirects
        )
        async with request as response:
            body = await _read(options, response, where)
    except httpx2.TooManyRedirects as error:
        raise ServiceError(f"{where} redirects more than five times", retryable=False) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise ServiceError(
            _hidden(options, f"{where}: {type(error).__name__}: {first_line(error)}")
        ) from None
    _check_status(options, response, body, where)
    try:
        return _without_secrets(options, json.loads(body))
    except (ValueError, RecursionError) as error:
        raise ServiceError(f"{where} answered what is no JSON: {_excerpt(options, body)!r}") from error


def key_problems(options: ServiceOptions) -> list[str]:
    """What is wrong with the key, if one is named: not set, or nothing that a header may hold."""
    key_env = options.key_env
    if key_env is None or (problems := key_env.problems()):
        return [] if key_env is None else problems
    if key_env.value().isascii() and key_env.value().isprintable():
        return []
    text = "holds a character that no key has, such as a line break"
    return [f"the environment variable {key_env.name} {text}"]


def _encoded(payload: Mapping[str, Any]) -> bytes:
    """JSON, which has no NaN: null stands for it."""
    try:
        return json.dumps(payload, default=str, allow_nan=False).encode()
    except ValueError:
        return json.dumps(_finite(payload), default=str).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


async def _read(options: ServiceOptions, response: httpx2.Response, where: str) -> bytes:
    body = bytearray()
    coding = response.headers.get("content-encoding", "identity")
    if coding != "identity":
        shown = _hidden(options, coding)[:20]
        raise ServiceError(
            f"{where} answered in {shown!r}; expected an answer that is not compressed", retryable=False
        )
    async for chunk in response.aiter_raw(65_536):
        body += chunk
        if len(body) > options.max_bytes:
            raise ServiceError(f"{where} answered more than max_bytes ({options.max_bytes})", retryable=False)
    return bytes(body)


def _check_status(options: ServiceOptions, response: httpx2.Response, body: bytes, where: str) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    redirect = next((r for r in (*response.history, response) if r.status_code in _REDIRECTS), response)
    if 300 <= redirect.status_code < 400:
        target = _hidden(options, _shown(redirect.headers.get("location", "nowhere")))
        other = "or redirects: true"
        if redirect.status_code not in _KEEP_POST:
            other = f"since HTTP {redirect.status_code} makes a GET of the POST, whatever redirects says"
        raise ServiceError(
            f"{where} redirects to {target}; put that address, {other}", retryable=False, status=status
        )
    about = f": {_excerpt(options, body)}" if body else ""
    raise ServiceError(
        f"{where} answered HTTP {status}{about}",
        retryable=status in _RETRYABLE or status >= 500,
        retry_after=_seconds(response.headers.get("retry-after", "0")),
        status=status,
    )


def _seconds(retry_after: str) -> float:
    """Seconds that a header asks to wait for, which may be a date; 0 where it is neither."""
    try:
        return float(retry_after)
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):  # of numbers that no date has
        return 0.0
    return max(0.0, ((when if when.tzinfo else when.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds())


def _shown(url: str) -> str:
    """An address without its query, which may hold a key."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # of a server's redirect
        return "what is no address"
    return f"{parts.scheme}://{host}{port}{parts.path}" if parts.scheme else parts.path


def _excerpt(options: ServiceOptions, body: bytes) -> str:
    text = _hidden(options, body.decode(errors="replace"))  # before it is cut, perhaps within the key
    return " ".join(text[: 4 * _EXCERPT].split())[:_EXCERPT]


def _without_secrets(options: ServiceOptions, value: Any) -> Any:
    """An answer's texts without the key: a service may repeat it in what becomes notes and reasons."""
    if options.key_env is None or isinstance(value, int | float | None):
        return value
    if isinstance(value, str):
        return options.key_env.hide(value)
    if isinstance(value, list):
        return [_without_secrets(options, item) for item in value]
    return {options.key_env.hide(name): _without_secrets(options, item) for name, item in value.items()}


def _hidden(options: ServiceOptions, text: str) -> str:
    return text if options.key_env is None else options.key_env.hide(text)
