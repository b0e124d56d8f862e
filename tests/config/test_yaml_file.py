"""YAML with line numbers and overrides."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppokit.config.yaml_file import Document, dump, override, parse, plain, read


def messages_of(document: Document) -> list[str]:
    return [str(problem) for problem in document.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-6", 3e-6),
        ("3.0e-4", 3e-4),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.inf", -math.inf),
        ("010", 10),
        ("08", 8),
        ("0x1f", 31),
        ("0o17", 15),
        ("-3", -3),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("'3e-6'", "3e-6"),
        ("~", None),
        ("", None),
        ("null", None),
        ("[1, [a]]", [1, ["a"]]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    read_back = parse(f"k: {text}\n").data["k"]
    assert read_back == value
    assert type(read_back) is type(value)


def test_nan() -> None:
    assert math.isnan(parse("k: .nan").data["k"])


def test_every_key_has_its_line() -> None:
    document = parse("# head\na:\n  b: 1\nc:\n  - {use: x, y: 1}\n  - use: z\n    d:\n      e: [1, 2]\n")
    assert document.lines == {
        "a": 2,
        "a.b": 3,
        "c": 4,
        "c[0]": 5,
        "c[0].use": 5,
        "c[0].y": 5,
        "c[1]": 6,
        "c[1].use": 6,
        "c[1].d": 7,
        "c[1].d.e": 8,
        "c[1].d.e[0]": 8,
        "c[1].d.e[1]": 8,
    }


def test_a_problem_gets_the_line_of_the_nearest_key() -> None:
    document = parse("a:\n  b:\n    - {c: 1}\n")
    for key in ("a.b[0].missing", "a.b[7].x", "a.z", "q"):
        document.report(key, "m")
    assert [p.line for p in document.problems] == [3, 2, 1, None]


def test_duplicate_keys_are_refused_with_both_lines() -> None:
    document = parse("a:\n  x: 1\n  y: 2\n  x: 3\na: 4\n")
    assert messages_of(document) == [
        "line 4, a.x: the key stands twice, on lines 2 and 4; keep one",
        "line 5, a: the key stands twice, on lines 1 and 5; keep one",
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: [1,\nb: 2\n", 3, "not YAML: while parsing a flow sequence that begins on line 1, expected"),
        ("a: 1\nb:\n\t- x\n", 3, "cannot start any token"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("a: 'x\n", 2, "quoted scalar"),
        ("a: *b\n", 1, "undefined alias"),
        ("a: 1\nb: !!python/object/apply:os.system [x]\n", 2, "the tag !!python/object/apply:os.system"),
        ("a: !mine x\n", 1, "'x' cannot be read as !mine"),
        ("a: !!int x\n", 1, "'x' cannot be read as !!int"),
        ("a: 1\n? [x]\n: 2\n", 2, "a key that is not text"),
        ("a: 1\n3: 2\n", 2, "a key that is not text"),
        ("a: &x [*x]\n", 1, "an alias inside its own anchor"),
        ("a: \x07\n", None, "not YAML"),
        ("a: " + "[" * 3000, None, "nested too deeply"),
        ("", None, "the file is empty; expected a mapping"),
        ("# only this\n", None, "the file is empty; expected a mapping"),
        ("- a\n", None, "the file holds a list of 1; expected a mapping"),
        ("text\n", None, "the file holds 'text' (text); expected a mapping"),
    ],
)
def test_bad_yaml_is_a_problem_with_a_line(text: str, line: int | None, message: str) -> None:
    (problem,) = parse(text).problems
    assert problem.line == line
    assert message in problem.message


def test_anchors_work() -> None:
    assert parse("a: &x {k: 1}\nb: *x\n").data == {"a": {"k": 1}, "b": {"k": 1}}


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert messages_of(read(tmp_path / "none.yaml")) == ["cannot be read: No such file or directory"]
    assert messages_of(read(tmp_path)) == ["cannot be read: Is a directory"]
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    assert messages_of(read(tmp_path / "latin.yaml")) == ["line 2, not UTF-8 text"]
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read(tmp_path / "bom.yaml").data == {"a": 1}


def overridden(*texts: str) -> Document:
    document = parse("a: {x: 1, y: {z: 2}}\nl:\n  - {w: 1}\n  - {w: 2}\nn: null\n")
    override(document, texts)
    return document


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a.x=3e-6", ("a", "x"), 3e-6),
        ("a.y.z=[1, b]", ("a", "y", "z"), [1, "b"]),
        ("a={q: 1}", ("a",), {"q": 1}),
        ("l.0.w=0.5", ("l", 0, "w"), 0.5),
        ("l[1].w=0.5", ("l", 1, "w"), 0.5),
        ("l[1]={}", ("l", 1), {}),
        ("n.r=8", ("n", "r"), 8),
        ("new.deep.key=x=y", ("new", "deep", "key"), "x=y"),
        ("a.x=", ("a", "x"), None),
    ],
)
def test_override(text: str, key: tuple[str | int, ...], value: Any) -> None:
    document = overridden(text)
    assert messages_of(document) == []
    node: Any = document.data
    for part in key:
        node = node[part]
    assert node == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.x", "expected key=value"),
        ("=1", "expected key=value"),
        ("a..x=1", "expected key=value"),
        (".a=1", "expected key=value"),
        ("a[x]=1", "expected key=value"),
        ("a.x.q=1", "a.x is 1, and has no 'q' in it"),
        ("l.2.w=1", "l has 2 entries, counted from 0; there is no l[2]"),
        ("l.w=1", "l is a list; expected a position, as in l.0.w"),
        ("a.0=1", "a is a mapping, and has no position 0"),
        ("absent.0.w=1", "there is no list absent"),
        ("n[0]=1", "there is no list n"),
        ("a.x=[1", "not YAML"),
        ("a.x={b: 1, b: 2}", "stands twice"),
    ],
)
def test_bad_override_is_a_problem_that_shows_it(text: str, message: str) -> None:
    (problem,) = overridden(text).problems
    assert problem.message.startswith(f"override {text!r}: ")
    assert message in problem.message


def test_a_problem_below_an_override_says_so() -> None:
    document = overridden("a={q: 1}", "new.deep=1", "l.0.w=2")
    for key in ("a.q", "a.x", "new.other", "l[0].w", "l[0].v", "l[1].w"):
        document.report(key, "m")
    origins = [(p.message.removeprefix("m").strip(), p.line) for p in document.problems]
    assert origins == [
        ("(from the override 'a={q: 1}')", None),
        ("(from the override 'a={q: 1}')", None),
        ("(from the override 'new.deep=1')", None),
        ("(from the override 'l.0.w=2')", None),
        ("", 3),
        ("", 4),
    ]


def test_later_overrides_win() -> None:
    assert overridden("a.x=2", "a.x=3").data["a"]["x"] == 3


def test_plain_refuses_what_yaml_cannot_hold() -> None:
    document = plain({"a": (1, 2), "b": {"when": datetime.date(2026, 1, 1)}, "c": {1: 2}})
    assert document.data["a"] == [1, 2]
    assert messages_of(document) == [
        "b.when: got a date; expected text, a number, a list or a mapping",
        "c: got the key 1; expected text",
    ]


WORDS = [
    "no",
    "3e-6",
    "1_000",
    "010",
    "0o7",
    "true",
    "",
    "~",
    "2026-01-01",
    "12:30",
    "a: b",
    "# c",
    "\x85",
    "é\n",
]


def test_dump_is_read_back_and_means_the_same_to_other_readers() -> None:
    data = {"words": WORDS, "numbers": [3e-6, 1e20, 0.1, -7, math.inf], "empty": [{}, [], None, False]}
    assert parse(dump(data)).data == data
    assert yaml.safe_load(dump(data)) == data
