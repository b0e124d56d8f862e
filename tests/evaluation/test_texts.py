"""Natural texts of an evaluation: what cannot be read is named with its row before any model is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ppokit.config.evaluation_settings import TextSettings
from ppokit.errors import DataError
from ppokit.evaluation.texts import read_texts
from small_models import save_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> AutoTokenizer:
    save_tokenizer(tmp_path / "tokenizer", eos_token="</s>")
    return AutoTokenizer.from_pretrained(tmp_path / "tokenizer")


def test_what_is_given_of_each(tokenizer: AutoTokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b c\n\n  d\te\n\u65e5\u672c\nf  g\n")
    texts = read_texts(TextSettings(path=str(tmp_path / "a.txt"), limit=3), tokenizer, 8)
    assert texts is not None
    assert texts.beginnings == ["a", "  d", "\u65e5"]
    assert texts.rests == [" b c", "\te", "\u672c"]
    assert read_texts(None, tokenizer, 8) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.jsonl",
            '{"text": "a b"}\n{"text": "c"}\n',
            r"evaluation.texts: row 2 is 'c'; expected a text of",
        ),
        (
            "a.txt",
            "a b\n" + "a " * 8 + "\n",
            r"evaluation.texts: row 2 has 8 tokens, and the model's context holds 8",
        ),
        ("a.csv", "txt\na b\n", r"evaluation.texts.column: .* has no column 'text'; it has 'txt'"),
        ("a.jsonl", '{"text": 3}\n', "expected text"),
        ("a.txt", "", r"evaluation.texts.path: .* is empty"),
        ("none.txt", None, "there is no file"),
    ],
)
def test_what_cannot_be_read(
    tokenizer: AutoTokenizer, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_texts(TextSettings(path=str(tmp_path / name)), tokenizer, 8)
