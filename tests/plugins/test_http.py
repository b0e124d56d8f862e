"""The reward `http` against real local servers, well and badly behaved ones; no secret in what it says."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from pydantic import ValidationError

from chat_tokenizer import chat_tokenizer
from components import built
from ppokit.errors import PluginError, RewardError
from ppokit.plugin import CheckContext, EnvSecret, RewardContext, Rewards
from ppokit.plugin.reductions import as_numbers
from ppokit.rewards.scorer import Scorer
from ppokit_rewards.http import Http, HttpOptions, check
from ppokit_rewards.service import _seconds
from rollouts import make_rollout, single_process
from service import serve

ROLLOUT = make_rollout([[1], [2], [3], [4]], [[4, 5], [7], [8, 9], [3]])
KEY = "sk-very-secret-123"


def score(
    url: str,
    keys: dict[str, Any] | None = None,
    rollout: Any = ROLLOUT,
    tokenizer: Any = None,
    **options: Any,
) -> Rewards:
    provider = Http(HttpOptions(url=url, **options), None)  # type: ignore[arg-type]
    reward = built("rewards", provider, "http", where="reward 'http'", **(keys or {}))
    scorer = Scorer([reward], single_process(), 0.99, context=RewardContext(tokenizer=tokenizer))
    try:
        return scorer.score(rollout)
    finally:
        scorer.close()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppokit.rewards.limits._FIRST_S", 0.001)
    monkeypatch.setenv("MY_KEY", KEY)


def test_its_own_format() -> None:
    answer = {
        "scores": [0.5, None, {"error": "too long"}, 2],
        "parts": {"safe": [1, 0, None, 1]},
        "notes": {"why": ["a", "b", "c", "d"]},
    }
    with serve(lambda body, number: answer) as service:
        rewards = score(service.url, key_env="MY_KEY")
    body, headers = service.asked[0]
    assert body == {
        "prompts": ROLLOUT.prompts,
        "responses": ROLLOUT.responses,
        "rows": [{"row": i} for i in range(4)],
    }
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert rewards.outcomes["http"] == ("scored", "abstained", "failed", "scored")
    assert rewards.scores.tolist() == [0.5, 0, 0, 2]
    assert rewards.reasons["http"][2] == "ServiceError: too long"
    assert rewards.parts["http/safe"][:2].tolist() == [1, 0]
    assert rewards.notes["http/why"] == ("a", "b", "c", "d")


def test_a_weighed_part_that_is_null_or_an_error() -> None:
    answer = {"scores": [9, 9, 9, 9], "parts": {"safe": [1, None, {"error": "too long"}, 2]}}
    with serve(lambda body, number: answer) as service:
        rewards = score(service.url, {"parts": {"safe": 1.0}})
    assert rewards.outcomes["http"] == ("scored", "abstained", "failed", "scored")
    assert rewards.scores.tolist() == [1, 0, 0, 2]
    assert rewards.reasons["http"][2] == "ServiceError: too long"


@pytest.mark.parametrize(
    ("form", "key", "sent"),
    [
        ("llama_factory", "scores", {"model", "messages"}),
        ("openrlhf", "rewards", {"query", "prompts", "labels"}),
    ],
)
def test_formats_of_others(form: Any, key: str, sent: set[str]) -> None:
    with serve(lambda body, number: {key: [1, 2, 3, 4]}) as service:
        label = "row" if form == "openrlhf" else None
        assert score(service.url, format=form, label=label).scores.tolist() == [1, 2, 3, 4]
    body, _ = service.asked[0]
    assert set(body) == sent
    assert body["query" if form == "openrlhf" else "messages"][1] == "prompt 1response 1"
    assert form != "openrlhf" or body["labels"] == [0, 1, 2, 3]


def test_formats_of_others_have_texts_as_the_policy_reads_them() -> None:
    """Template and special tokens included, as LLaMA-Factory and OpenRLHF decode them."""
    tokenizer = chat_tokenizer()

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    asked = "<|im_start|>user\nOne and one?<|im_end|>\n<|im_start|>assistant\n"
    written = ["Two.<|im_end|>", "<think>a</think>Two.<|im_end|>", "cut"]
    rollout = replace(
        make_rollout([ids(asked)] * 3, [ids(text) for text in written]),
        responses=["Two.", "<think>a</think>Two.", "cut"],
    )
    answer = {"rewards": [1, 2, 3], "scores": [1, 2, 3], "extra_logs": {"acc/len": [0, 1, 2], "mean": 5}}
    with serve(lambda body, number: answer) as service:
        rewards = score(service.url, rollout=rollout, tokenizer=tokenizer, format="openrlhf")
        score(service.url, rollout=rollout, tokenizer=tokenizer, format="llama_factory")
        answers = {"text": "answer"}
        score(service.url, answers, rollout, tokenizer, format="llama_factory")
    body, others, of_answers = (body for body, _ in service.asked)
    assert body == {"query": [asked + text for text in written], "prompts": [asked] * 3, "labels": [None] * 3}
    assert others == {"model": "model", "messages": [asked + text for text in written]}
    assert of_answers["messages"] == [asked + text for text in ("Two.<|im_end|>", "Two.", "cut")]
    assert rewards.parts["http/acc_len"].tolist() == [0, 1, 2]
    assert set(rewards.parts) == {"http/acc_len"}


def test_requests_are_cut_and_made_at_once() -> None:
    together = threading.Barrier(4)

    def answer(body: Any, number: int) -> Any:
        together.wait(10)
        return {"scores": [float(text[-1]) for text in body["responses"]]}

    with serve(answer) as service:
        assert score(service.url, batch_size=1).scores.tolist() == [0, 1, 2, 3]
    assert len(service.asked) == service.most == 4


GOOD = {"scores": [1, 2, 3, 4]}


def _endless() -> Iterator[bytes]:
    while True:
        yield b" " * 1_000_000


@pytest.mark.parametrize(
    ("answers", "reason", "asked"),
    [
        ([(503, {}, b"busy")], "answered HTTP 503: busy", 2),
        ([(500, {}, b"")], "answered HTTP 500", 2),
        ([(404, {}, b"no such page")], "answered HTTP 404: no such page", 1),
        ([(401, {}, f"bad key {KEY}".encode())], "answered HTTP 401: bad key ***", 1),
        ([(200, {}, b"{not json")], "answered what is no JSON: '{not json'", 2),
        ([(200, {}, b"[" * 200_000)], "answered what is no JSON", 2),
        ([{"scores": [1, 2]}], "answered 2 scores; expected 'scores' with 4 numbers", 2),
        ([{"score": 3}], "answered {'score': 3}; expected 'scores'", 2),
        (
            [(302, {"Location": "http://other/x?key=1"}, b"")],
            "redirects to http://other/x; put that address, since HTTP 302 makes a GET of the POST",
            1,
        ),
        ([(308, {"Location": "/x"}, b"")], "redirects to /x; put that address, or redirects: true", 1),
        ([(302, {"Location": "http://[::x"}, b"")], "redirects to what is no address", 1),
        ([(200, {}, "endless")], "answered more than max_bytes (2000000)", 1),
        ([(200, {"Content-Encoding": "gzip"}, gzip.compress(b" " * 10**7))], "answered in 'gzip'", 1),
        ([{"scores": [1, 2, 3, 4], "parts": {"a/b": [1, 2, 3, 4]}}], "with the name 'a/b'", 2),
        ([{"scores": [1, 2, 3, 4], "parts": {"scored": [1, 2, 3, 4]}}], "with the name 'scored'", 2),
        ([{"scores": [1, 2, 3, 4], "notes": [1]}], "answered notes as [1]; expected lists by name", 2),
        ([[1, 2, 3]], "answered 3 scores", 2),
        ([(200, {}, b"")], "answered what is no JSON: ''", 2),
        ([(200, {}, b'"\xff"')], "answered what is no JSON", 2),
        ([(302, {"Location": f"/login/{KEY}"}, b"")], "redirects to /login/***", 1),
        ([(200, {"Content-Encoding": KEY}, b"{}")], "answered in '***'", 1),
        ([(500, {}, b"x" * 190 + KEY.encode())], "x***", 2),
        ([(200, {}, b"x" * 190 + KEY.encode())], "x***", 2),
    ],
)
def test_a_service_that_fails(answers: list[Any], reason: str, asked: int) -> None:
    def answer(body: Any, number: int) -> Any:
        status = answers[0]
        if isinstance(status, tuple) and status[2] == "endless":
            return (200, {}, _endless())
        return status

    with (
        serve(answer) as service,
        pytest.raises(RewardError, match=r"failed for 4 of 4 responses") as raised,
    ):
        score(service.url, {"retries": 1, "timeout": 10}, key_env="MY_KEY", max_bytes=2_000_000)
    assert reason in str(raised.value)
    assert KEY[:9] not in str(raised.value)
    assert len(service.asked) == asked


def test_what_is_no_number_fails_its_response() -> None:
    for wrong in (["NaN", "1e999", "-Infinity"], ["1" + "0" * 400, "true", "[1]"], ['"2"', "{}", "1e39"]):
        text = f'{{"scores": [1, {", ".join(wrong)}]}}'.encode()
        with serve(lambda body, number, text=text: (200, {}, text)) as service:
            rewards = score(service.url)
        assert rewards.outcomes["http"] == ("scored", "failed", "failed", "failed"), wrong
    assert rewards.reasons["http"][1] == "ServiceError: the service scored '2'; expected a number"


def test_a_key_that_the_service_repeats_is_shown_nowhere() -> None:
    escaped = json.dumps(KEY)[1:-1].replace("s", "\\u0073")
    text = (
        f'{{"scores": [1, {{"error": "key {escaped}"}}, 1, 1], '
        f'"notes": {{"why {KEY}": ["a", "{escaped}", "", ""]}}, "parts": {{"{KEY}": [1, 1, 1, 1]}}}}'
    )
    with serve(lambda body, number: (200, {}, text.encode())) as service:
        rewards = score(service.url, key_env="MY_KEY")
    assert KEY not in repr(rewards)
    assert rewards.reasons["http"][1] == "ServiceError: key ***"
    assert rewards.notes["http/why ***"][1] == "***"


@pytest.mark.parametrize("key", ["sk-a/b+c=1 %", "0123456789", "sk-abc\xff\xfe?>~~"])
def test_a_key_is_hidden_however_it_is_written(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("MY_KEY", key)
    raw = key.encode()
    written = [quote(raw), quote(raw, safe=""), quote_plus(raw)]
    written.append(re.sub("%..", lambda escape: escape[0].lower(), written[1]))
    for encode in (b64encode, urlsafe_b64encode):
        assert EnvSecret("MY_KEY").hide(f"<{encode(raw).decode()}>") == "<***>"
        for before, behind in itertools.product((b"us:", b"use:", b"user:"), (b"", b":a", b":ab")):
            text = encode(before + raw + behind).decode()
            hidden = EnvSecret("MY_KEY").hide(text)
            assert "***" in hidden, text
            assert len(text) - len(hidden.replace("***", "")) >= len(raw) * 8 // 6 - 1
    for text in written:
        assert "***" in EnvSecret("MY_KEY").hide(f"got {text}!"), text
    assert EnvSecret("MY_KEY").hide("no key here") == "no key here"


@pytest.mark.parametrize("key", ["sk-a\nb-secret", "sk-\x01-secret", "sk-é-secret"])
def test_a_key_that_no_header_holds_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    options = HttpOptions(url="http://a", key_env="MY_KEY")
    (problem,) = check(options, CheckContext(("prompt",)))
    assert problem.startswith("the environment variable MY_KEY holds a character that no key has")
    with (
        serve(lambda body, number: GOOD) as service,
        pytest.raises(PluginError, match="MY_KEY holds") as raised,
    ):
        score(service.url, key_env="MY_KEY")
    assert "secret" not in str(raised.value)
    shown = f"{key} {key!r} {key.encode()!r} {json.dumps(key)}"
    assert "secret" not in EnvSecret("MY_KEY").hide(shown)


def test_a_date_to_ask_again_at() -> None:
    assert 50 < _seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) <= 60
    assert _seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [_seconds(text) for text in ("3", "0.5", "soon", "", "-1")] == [3, 0.5, 0, 0, -1]
    beyond = "9" * 25
    assert _seconds(f"Mon, 01 Jan {beyond} 00:00:00 GMT") == 0
    assert _seconds(f"Mon, 01 Jan 2024 00:00:00 +{beyond}") == 0


def test_a_key_in_a_header_of_its_own() -> None:
    with serve(lambda body, number: GOOD) as service:
        score(service.url, key_env="MY_KEY", key_header="api-key")
    headers = {name.lower(): value for name, value in service.asked[0][1].items()}
    assert headers["api-key"] == KEY
    assert "authorization" not in headers
    with pytest.raises(ValidationError, match="redirects"):
        HttpOptions(url="http://a", key_env="MY_KEY", key_header="api-key", redirects=True)


def test_what_json_cannot_hold() -> None:
    """Cells that are NaN are sent as null, and notes that are null are empty."""
    rollout = replace(ROLLOUT, rows=[{"a": [1.0, float("nan")]}] * 4)
    answer = {"scores": [1, {"error": "x" * 100_000}, 2, 3], "notes": {"why": ["a", None, "", "b"]}}
    with serve(lambda body, number: answer) as service:
        rewards = score(service.url, rollout=rollout)
    assert service.asked[0][0]["rows"] == [{"a": [1.0, None]}] * 4
    assert rewards.notes["http/why"] == ("a", "", "", "b")
    assert len(rewards.reasons["http"][1]) == 2000


def test_it_waits_as_long_as_the_service_says() -> None:
    moments = []

    def answer(body: Any, number: int) -> Any:
        moments.append(time.monotonic())
        return GOOD if number else (429, {"Retry-After": "0.3"}, b"slow down")

    with serve(answer) as service:
        rewards = score(service.url, {"retries": 2})
    assert moments[1] - moments[0] >= 0.3
    assert as_numbers(rewards.metrics)["reward/http/retried"] == 4


def test_redirects_are_followed_where_the_recipe_says_and_loops_end() -> None:
    with (
        serve(lambda body, number: GOOD) as target,
        serve(lambda body, number: (307, {"Location": target.url}, b"")) as service,
    ):
        assert score(service.url, redirects=True, key_env="MY_KEY").scores.tolist() == [1, 2, 3, 4]
    assert "Authorization" not in target.asked[0][1], "another origin gets no key"
    for status in (301, 302, 303):
        with (
            serve(lambda body, number, status=status: (status, {"Location": "/there"}, b"")) as service,
            pytest.raises(RewardError, match=f"to /there; put that address, since HTTP {status} makes a GET"),
        ):
            score(service.url, redirects=True)
    with (
        serve(lambda body, number: (307, {"Location": "/"}, b"")) as service,
        pytest.raises(RewardError, match="redirects more than five times"),
    ):
        score(service.url, {"retries": 3}, redirects=True)
    assert len(service.asked) == 6


def test_nobody_listens_and_nobody_answers() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RewardError, match=r"127.0.0.1:\d+: ConnectError"):
        score(url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(RewardError, match=r"TimeoutError: no answer in 0\.2 s"):
            score(f"http://127.0.0.1:{silent.getsockname()[1]}", {"timeout": 0.2})
        assert time.monotonic() - began < 5


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *files], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with serve(lambda body, number: GOOD, tls) as service:
        with pytest.raises(RewardError, match=r"ConnectError: .*(?i:certificate)"):
            score(service.url, key_env="MY_KEY")
        assert service.asked == []


def test_nothing_leaks() -> None:
    descriptors = Path("/proc/self/fd")
    with serve(lambda body, number: GOOD) as service:
        score(service.url)
        before = len(list(descriptors.iterdir()))
        for _ in range(3):
            score(service.url)
        assert len(list(descriptors.iterdir())) <= before + 1


def test_options() -> None:
    for options in (
        {"url": "ftp://a"},
        {"url": "http://user:pass@host/"},
        {"url": "http://a", "headers": {"Authorization": "Bearer x"}},
        {"url": "http://a", "headers": {"X-Access": "Bearer sk-abc"}},
        {"url": "http://a", "headers": {"X-Access": "basic dTpw"}},
        {"url": "http://a", "headers": {"api-keys": "sk-abc"}},
        {"url": "http://a?pwd=x"},
        {"url": "http://a", "key_env": KEY},
        {"url": "http://a?api_key=x"},
        {"url": "http://a?sig="},
        {"url": "http://a:99999"},
        {"url": "http://a b"},
        {"url": "http://a", "headers": {"X-Auth-Token": "x"}},
        {"url": "http://a", "headers": {"Ocp-Apim-Subscription-Key": "x"}},
        {"url": "http://a", "headers": {"A": "x\r\nB: y"}},
        {"url": "http://a", "headers": {"A": "é"}},
        {"url": "http://a", "headers": {"a b": "x"}},
    ):
        with pytest.raises(ValidationError):
            HttpOptions(**options)
    options = HttpOptions(url="http://a", key_env="MY_KEY")
    assert options.model_dump()["key_env"] == "MY_KEY"
    assert KEY not in repr(options)
    context = CheckContext(("prompt",))
    assert list(check(options, context)) == []
    missing = HttpOptions(url="http://a", key_env="NO_KEY", label="x", format="openrlhf")
    assert len(list(check(missing, context))) == 2
    with pytest.raises(PluginError, match="environment variable NO_KEY is not set"):
        EnvSecret("NO_KEY").value()
