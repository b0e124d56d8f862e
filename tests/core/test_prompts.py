"""Prompts: every row once an epoch, a pure function of the step, and bad rows named by number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ppokit.data.prompts import Prompts, encode_prompt, read_rows
from ppokit.errors import DataError

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} ; {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
WORDS = ["<s>", "</s>", "user", "system", "assistant", ":", ";", *(f"w{i}" for i in range(40))]


def tokenizer(*, template: str | None = None, ends: bool = False) -> PreTrainedTokenizerFast:
    """One token a word; every text begins with <s>, and ends with </s> if asked."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=";"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = "<s> $A </s>" if ends else "<s> $A"
    special = [("<s>", 0), ("</s>", 1)]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def prompts(rows: list[dict[str, Any]], **changes: Any) -> Prompts:
    made = changes.pop("tokenizer", None) or tokenizer()
    settings: dict[str, Any] = {
        "column": "prompt",
        "chat": False,
        "system": None,
        "context": None,
        "max_new_tokens": 4,
        "per_step": 3,
        "seed": 0,
        **changes,
    }
    return Prompts(rows, made, **settings)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"w{i}", "extra": i} for i in range(count)]


@pytest.mark.parametrize(("count", "per_step"), [(7, 3), (6, 3), (3, 5), (1, 4)])
def test_every_row_once_an_epoch(count: int, per_step: int) -> None:
    made = prompts(rows(count), per_step=per_step)
    steps = [made.step(step) for step in range(3 * count)]
    assert all(len(batch) == per_step for batch in steps)
    seen = [i for batch in steps for i in batch.indices]
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_differs_by_epoch_and_seed() -> None:
    made, other = prompts(rows(20), per_step=20), prompts(rows(20), per_step=20, seed=1)
    orders = [tuple(p.step(s).indices) for p in (made, other) for s in (0, 1)]
    assert len(set(orders)) == 4


def test_a_step_depends_on_its_number_alone() -> None:
    straight = prompts(rows(7))
    expected = [batch.indices for batch in straight.steps(0, 12)]
    jumping = prompts(rows(7))
    for step in (11, 0, 5, 5, 2, 11):
        assert jumping.step(step).indices == expected[step]
    assert [batch.indices for batch in prompts(rows(7)).steps(4, 12)] == expected[4:]


def test_a_batch_carries_text_ids_and_every_column() -> None:
    batch = prompts(rows(5)).step(0)
    for index, text, ids, row in zip(batch.indices, batch.prompts, batch.prompt_ids, batch.rows, strict=True):
        assert (text, row) == (f"w{index}", {"prompt": f"w{index}", "extra": index})
        assert ids == [0, WORDS.index(f"w{index}")]


class TestEncoding:
    def test_plain(self) -> None:
        assert encode_prompt("w0 w1", tokenizer(), chat=False) == [0, 7, 8]

    def test_an_end_that_the_tokenizer_adds_is_dropped(self) -> None:
        assert encode_prompt("w0", tokenizer(ends=True), chat=False) == [0, 7]
        assert encode_prompt("w0 </s>", tokenizer(), chat=False) == [0, 7, 1]

    def test_chat(self) -> None:
        """Special tokens come from the template alone."""
        made = tokenizer(template=TEMPLATE, ends=True)
        expected = ["user", ":", "w3", ";", "assistant", ":"]
        assert encode_prompt("w3", made, chat=True) == [WORDS.index(w) for w in expected]
        expected = ["system", ":", "w1", ";", *expected]
        assert encode_prompt("w3", made, chat=True, system="w1") == [WORDS.index(w) for w in expected]

    def test_no_template(self) -> None:
        with pytest.raises(DataError, match=r"prompts\.chat: true, but .* has no chat template"):
            prompts(rows(3), chat=True)


class TestBadRows:
    def test_no_such_column(self) -> None:
        with pytest.raises(DataError, match=r"prompts\.column: 'text'; the data set has 'prompt', 'extra'"):
            prompts(rows(3), column="text")

    @pytest.mark.parametrize("bad", [None, 3, ["w1"]])
    def test_no_text(self, bad: Any) -> None:
        with pytest.raises(DataError, match=r"row 2 has .* in 'prompt'; expected text"):
            prompts([{"prompt": "w0"}, {"prompt": bad}])

    def test_half_a_character(self) -> None:
        with pytest.raises(DataError, match=r"row 2 has half a character .* in 'hi \\ud800'; expected text"):
            prompts([{"prompt": "a"}, {"prompt": "hi \ud800"}])

    def test_an_empty_prompt(self) -> None:
        bare = tokenizer()
        bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
        with pytest.raises(DataError, match="row 3 is an empty prompt"):
            prompts([{"prompt": "w0"}, {"prompt": "w1"}, {"prompt": " "}], tokenizer=bare)

    def test_no_room_for_a_response(self) -> None:
        long = [{"prompt": "w0 w1"}, {"prompt": "w1 w2 w3 w4"}]
        assert len(prompts(long, context=9).rows) == 2  # <s> and four words, and four more
        with pytest.raises(DataError, match=r"row 2 has 5 tokens.*4 more.*context holds 8.*'w1 w2 w3 w4'"):
            prompts(long, context=8)


class TestFiles:
    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(self, tmp_path: Path, name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def test_json_lines_with_ragged_columns_and_odd_line_separators(self, tmp_path: Path) -> None:
        """U+2028 is no end of a line in JSON lines, though str.splitlines says so."""
        text = json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False)
        path = self.write(tmp_path, "p.jsonl", "\ufeff" + text + '\n\n{"prompt": "d", "n": 1}\n')
        assert read_rows(path, "train") == [{"prompt": "a\u2028b\x85c", "n": None}, {"prompt": "d", "n": 1}]

    def test_only_an_empty_cell_is_missing(self, tmp_path: Path) -> None:
        """Texts that spreadsheets' readers take for a missing number are texts; numbers stay numbers."""
        path = self.write(tmp_path, "p.csv", "prompt,label,n\nNA,null,1.5\nNone,,\nn/a,x,2\n")
        assert read_rows(path, "train") == [
            {"prompt": "NA", "label": "null", "n": 1.5},
            {"prompt": "None", "label": None, "n": None},
            {"prompt": "n/a", "label": "x", "n": 2.0},
        ]

    def test_a_bad_line_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="line 2 is not JSON"):
            read_rows(self.write(tmp_path, "p.jsonl", '{"prompt": "a"}\n{"prompt": \n'), "train")
        with pytest.raises(DataError, match="line 2 is not JSON"):
            read_rows(self.write(tmp_path, "P.JSONL", '{"prompt": "a"}\n{"prompt": \n'), "train")
        with pytest.raises(DataError, match="line 1 is no JSON object"):
            read_rows(self.write(tmp_path, "q.jsonl", '["a"]\n'), "train")

    def test_json(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.json", '[{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]')
        assert read_rows(path, "train") == [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]

    def test_csv(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.csv", 'prompt,n\n"a, ""b""\nc",1\nd,2\n')
        assert read_rows(path, "train") == [{"prompt": 'a, "b"\nc', "n": 1}, {"prompt": "d", "n": 2}]

    def test_lines_of_a_csv_that_end_in_a_comma(self, tmp_path: Path) -> None:
        """By default pandas takes the first of three columns as the rows' names, and shifts the others."""
        path = self.write(tmp_path, "p.csv", "prompt,topic\nOnce,animals,\nTom,boys,\n")
        assert read_rows(path, "train") == [
            {"prompt": "Once", "topic": "animals"},
            {"prompt": "Tom", "topic": "boys"},
        ]

    def test_a_csv_that_is_broken_is_told_with_its_line(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.csv", "prompt,n\na,1\nb,2,3\n")
        with pytest.raises(
            DataError, match=r"^canary\.path: .*p\.csv line 3 has 3 cells under a header of 2"
        ):
            read_rows(path, "train", key="canary.path")

    def test_parquet(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"prompt": ["a", "b"], "tags": [["x"], []]}), tmp_path / "p.parquet")
        expected = [{"prompt": "a", "tags": ["x"]}, {"prompt": "b", "tags": []}]
        assert read_rows(str(tmp_path / "p.parquet"), "train") == expected

    def test_text(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.txt", "one\u2028still one\ntwo\n")
        assert read_rows(path, "train") == [{"text": "one\u2028still one"}, {"text": "two"}]
        blank = self.write(tmp_path, "q.txt", "one\n\n  \ntwo\n\n")
        assert read_rows(blank, "train") == [{"text": "one"}, {"text": "two"}]

    @pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.txt"])
    def test_an_empty_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DataError, match=rf"prompts\.path: .*{name}"):
            read_rows(self.write(tmp_path, name, ""), "train")

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"ends in \.docx; expected one of \.jsonl"):
            read_rows(self.write(tmp_path, "p.docx", "x"), "train")

    def test_neither_a_file_nor_a_data_set(self) -> None:
        with pytest.raises(DataError, match=r"prompts\.path: no/such-set cannot be read"):
            read_rows("no/such-set", "train")
