"""Rewards of a response's form: repetition, format, banned words, readability."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from ppokit_rewards.banned import Banned, BannedOptions
from ppokit_rewards.banned import check as check_banned
from ppokit_rewards.code import last_block
from ppokit_rewards.format import Format, FormatOptions, tags
from ppokit_rewards.format import check as check_format
from ppokit_rewards.readability import Readability, readability, syllables
from ppokit_rewards.repetition import Repetition, repetition


def test_repetition_by_hand(make_rollout) -> None:
    """a b a b a b: 3-grams aba, bab, aba, bab are 2 different of 4."""
    assert repetition("ababab", 3) == -0.5
    assert repetition("abc", 3) == repetition("ab", 3) == repetition("", 1) == 0
    assert repetition("aaaa", 1) == -0.75
    rollout = make_rollout(["Go on GO ON go on", "", "one two three four"])
    assert Repetition(n=2).score(rollout).scores.tolist() == pytest.approx([2 / 5 - 1, 0, 0])
    characters = Repetition(n=1, unit="characters").score(make_rollout(["哈哈哈哈", "你好"]))
    assert characters.scores.tolist() == [-0.75, 0]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        (" <think>a\n</think>\n\n<answer></answer>\n", 1),
        ("so <think>a</think><answer>b</answer>", 2 / 3),
        ("<answer>b</answer><think>a</think>", 2 / 3),
        ("<think>a</think>b", 1 / 3),
        ("<think>a<answer>b</answer>", 1 / 3),
        ("<think><think>a</think></think><answer>b</answer>", 1 / 3),
        ("", 0),
    ],
)
def test_tags(text: str, score: float) -> None:
    assert tags(text, ("think", "answer")) == pytest.approx(score)


def test_json(make_rollout, context, tmp_path) -> None:
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    texts = ['{"a": 1}', '```json\n{"a": 1}\n```', '{"a": "x"}', "{a: 1}", "", '{"a": NaN}', "[" * 100_000]
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(schema))
    for given in (schema, str(file)):
        scores = Format(FormatOptions(json_schema=given), context).score(make_rollout(texts)).scores
        assert scores.tolist() == [1, 1, 0.5, 0, 0, 0, 0]
    bare = Format(FormatOptions(is_json=True, fenced=False), context).score(make_rollout(texts[:3])).scores
    assert bare.tolist() == [1, 0, 1]


def test_json_that_is_deeper_than_a_schema_can_follow(make_rollout, context) -> None:
    nested = {"type": "array", "items": {"$ref": "#/$defs/nested"}}
    options = FormatOptions(json_schema={"$defs": {"nested": nested}, "$ref": "#/$defs/nested"})
    texts = ["[" * 900 + "]" * 900, "[[]]", '[["a"]]']
    assert Format(options, context).score(make_rollout(texts)).scores.tolist() == [0.5, 1, 0.5]


@pytest.mark.parametrize(
    ("schema", "text", "score"),
    [
        ({"multipleOf": 0.01}, "1e999", 0.5),
        ({"multipleOf": 0.01}, "1" * 400, 0.5),
        ({"$ref": "https://json-schema.org/draft/2020-12/schema"}, '{"type": "string"}', 1),
        ({"properties": {"const": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "string"}}}, "{}", 1),
        ({}, "``` JSON\r\n{}\r\n```", 1),
    ],
)
def test_json_as_servers_and_models_write_it(
    make_rollout, context, schema: dict[str, object], text: str, score: float
) -> None:
    reward = Format(FormatOptions(json_schema=schema), context)
    assert reward.score(make_rollout([text])).scores.tolist() == [score]


def test_texts_that_no_reward_reads_for_minutes(make_rollout, context) -> None:
    """Of 200,000 characters, on which a search that begins anew at each of them never ends."""
    count = 200_000
    marks, dots = "a" + "\u0301\u0316" * (count // 2), "." * count + "a"
    banned = Banned(BannedOptions(words=("b",)), context)
    assert banned.score(make_rollout([marks, marks + " B"])).scores.tolist() == [0, -1]
    assert readability(dots, "en") == readability(". a", "en")
    assert readability("ba" * count, "en") == readability("ba" * 40, "en") == 0
    assert last_block("```" + " " * count) == "```" + " " * count


def test_mistakes_of_a_format(unknown_columns) -> None:
    assert list(check_format(FormatOptions(json_schema={"type": "thing"}), unknown_columns))
    for name, elsewhere in [("a", "http://127.0.0.1:9/x"), ("enum", "#/$defs/none"), ("a", "other.json")]:
        (problem,) = check_format(
            FormatOptions(json_schema={"properties": {name: {"$ref": elsewhere}}}), unknown_columns
        )
        assert problem.startswith(f"json_schema: $ref {elsewhere!r} names nothing within the schema")
    assert "No such file" in next(iter(check_format(FormatOptions(json_schema="no.json"), unknown_columns)))
    for options in ({}, {"is_json": True, "tags": ["a"]}, {"tags": ["<a>"]}, {"tags": ["a", "a"]}):
        with pytest.raises(ValidationError):
            FormatOptions(**options)


def test_a_schema_never_fetches_another(make_rollout, context, monkeypatch) -> None:
    """Also where no check sees the reference: within a part that has an address of its own."""
    asked: list[object] = []
    monkeypatch.setattr("urllib.request.urlopen", asked.append)
    part = {"$id": "http://127.0.0.1:9/y", "allOf": [{"$ref": "x"}]}
    reward = Format(FormatOptions(json_schema={"properties": {"a": part}}), context)
    with pytest.raises(Exception, match="Unresolvable"):
        reward.score(make_rollout(['{"a": 1}']))
    assert not asked


def test_banned_words(make_rollout, context, tmp_path, unknown_columns) -> None:
    words = tmp_path / "words.txt"
    words.write_text("# mine\nas an AI\n\n")
    options = BannedOptions(words=("Damn",), path=str(words), max_count=2)
    texts = ["damn, DAMN", "undamned", "As  an\nai I", "ＤＡＭＮ", ""]
    assert Banned(options, context).score(make_rollout(texts)).scores.tolist() == [-1, 0, -0.5, -0.5, 0]
    anywhere = BannedOptions(words=("damn",), whole_words=False)
    assert Banned(anywhere, context).score(make_rollout(texts)).scores.tolist() == [-1, -1, 0, -1, 0]
    assert list(check_banned(BannedOptions(path="no.txt"), unknown_columns)) == [
        "path: there is no file no.txt"
    ]
    words.write_bytes(b"\xef\xbb\xbfdarn\n\xe2\x80\x8b\nheck")  # as a Windows editor saves it
    scores = Banned(BannedOptions(path=str(words)), context).score(make_rollout(["darn", "he\u200bck", "x"]))
    assert scores.scores.tolist() == [-1, -1, 0]
    words.write_bytes(b"\xe9t\xe9")
    (problem,) = check_banned(BannedOptions(path=str(words)), unknown_columns)
    assert "cannot be read as UTF-8" in problem
    for wrong in ({}, {"words": [" "]}, {"words": ["\u200b"]}):
        with pytest.raises(ValidationError):
            BannedOptions(**wrong)


def test_reading_ease_by_hand(make_rollout) -> None:
    """Six words of one syllable in one sentence: 206.835 - 1.015 * 6 - 84.6 = 116.145, clipped to 100."""
    assert readability("The cat sat on the mat.", "en") == 100
    # 2 sentences, 6 words, 9 syllables: 206.835 - 1.015 * 3 - 84.6 * 1.5
    assert readability("Yellow water. A happy dog ran.", "en") == pytest.approx(
        206.835 - 3.045 - 126.9, abs=1e-6
    )
    assert [syllables(word, "en") for word in ("make", "table", "water", "I")] == [1, 2, 2, 1]
    assert readability("123 !", "en") is None
    scores = Readability(target=50).score(make_rollout(["The cat sat on the mat.", ""])).scores
    assert scores.tolist() == [0.5, 0]
    # 1 sentence, 3 words, 5 syllables
    assert readability("Die Katze schnurrte.", "de") == pytest.approx(180 - 3 - 58.5 * 5 / 3)
