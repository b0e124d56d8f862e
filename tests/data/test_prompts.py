"""Prompts: every row once per epoch, a pure function of the step, and bad rows named by number."""

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

from ppokit.config.prompt_settings import PromptSettings
from ppokit.config.settings import RolloutSettings, RunSettings
from ppokit.data.chat_templates import set_template
from ppokit.data.formats import Table
from ppokit.data.prompt_rows import read_prompts, usable_prompts
from ppokit.data.prompts import PromptLimits, Prompts, encode_prompts
from ppokit.data.tables import load_table
from ppokit.errors import DataError, PpokitWarning

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
    fast_tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    fast_tokenizer.chat_template = template
    return fast_tokenizer


def table(rows: list[dict[str, Any]]) -> Table:
    return Table("data", tuple(rows[0]), [(i, list(row.values())) for i, row in enumerate(rows, 1)])


def prompts(rows: list[dict[str, Any]], **changes: Any) -> Prompts:
    """With 1,000 steps, so that each row is asked for."""
    options: dict[str, Any] = {"per_step": 3, "seed": 0, "steps": 1_000, "context": None, "chat": False}
    options |= changes
    return Prompts(
        table(rows),
        options.pop("tokenizer", None) or tokenizer(),
        PromptSettings(path="data", chat=options["chat"]),
        RolloutSettings(prompts_per_step=options["per_step"], max_new_tokens=4),
        RunSettings(steps=options["steps"], seed=options["seed"], out="run"),
        PromptLimits(4, options["context"], options.get("vocabulary")),
    )


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"w{i}", "extra": i} for i in range(count)]


@pytest.mark.parametrize(("count", "per_step"), [(7, 3), (6, 3), (3, 5), (1, 4)])
def test_every_row_once_per_epoch(count: int, per_step: int) -> None:
    source = prompts(rows(count), per_step=per_step)
    steps = [source.step(step) for step in range(1, 3 * count + 1)]
    assert all(len(batch) == per_step for batch in steps)
    seen = [i for batch in steps for i in batch.indices]
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_order_differs_by_epoch_and_seed() -> None:
    source, other = prompts(rows(20), per_step=20), prompts(rows(20), per_step=20, seed=1)
    orders = [tuple(p.step(s).indices) for p in (source, other) for s in (1, 2)]
    assert len(set(orders)) == 4


def test_a_step_depends_on_its_number_alone() -> None:
    straight = prompts(rows(7))
    expected = [batch.indices for batch in straight.steps(1, 12)]
    assert len(expected) == 12
    jumping = prompts(rows(7))
    for step in (12, 1, 6, 6, 3, 12):
        assert jumping.step(step).indices == expected[step - 1]
    assert [batch.indices for batch in prompts(rows(7)).steps(5, 12)] == expected[4:]


def test_a_batch_carries_text_ids_and_every_column() -> None:
    batch = prompts(rows(5)).step(1)
    for index, text, ids, row in zip(batch.indices, batch.prompts, batch.prompt_ids, batch.rows, strict=True):
        assert (text, row) == (f"w{index}", {"prompt": f"w{index}", "extra": index})
        assert ids == [0, WORDS.index(f"w{index}")]


def encode_one(text: str, tokenizer: PreTrainedTokenizerFast, **options: Any) -> list[int]:
    """Alone, which must be as in company."""
    settings = PromptSettings(path="data", **options)
    (ids,) = encode_prompts([text], tokenizer, settings)
    assert encode_prompts([text, "w5 w6 w7", text], tokenizer, settings)[::2] == [ids, ids]
    return ids


class TestEncoding:
    def test_plain(self) -> None:
        assert encode_one("w0 w1", tokenizer(), chat=False) == [0, 7, 8]

    def test_an_end_that_the_tokenizer_adds_is_dropped(self) -> None:
        assert encode_one("w0", tokenizer(ends=True), chat=False) == [0, 7]
        assert encode_one("w0 </s>", tokenizer(), chat=False) == [0, 7, 1]

    def test_chat(self) -> None:
        """Special tokens come from the template alone."""
        chat_tokenizer = tokenizer(template=TEMPLATE, ends=True)
        expected = ["user", ":", "w3", ";", "assistant", ":"]
        assert encode_one("w3", chat_tokenizer, chat=True) == [WORDS.index(w) for w in expected]
        expected = ["system", ":", "w1", ";", *expected]
        assert encode_one("w3", chat_tokenizer, chat=True, system="w1") == [WORDS.index(w) for w in expected]

    def test_no_template(self) -> None:
        with pytest.raises(DataError, match=r"prompts\.chat: true, but .* has no chat template"):
            set_template(tokenizer(), PromptSettings(path="data", chat=True))


def read(rows: list[dict[str, Any]], **settings: Any) -> list[int]:
    """Numbers of the usable rows."""
    read = PromptSettings(path="data", **settings)
    usable = usable_prompts(table(rows), read, chat=read.chat)
    return [number for number, _ in usable.rows]


class TestBadRows:
    def test_no_such_column(self) -> None:
        with pytest.raises(DataError, match=r"data has no column 'text'; it has 'prompt' and 'extra'"):
            read(rows(3), column="text")

    @pytest.mark.parametrize(("bad", "shown"), [(None, "empty"), (3, "3"), ({"w": 1}, r"\{'w': 1\}")])
    def test_no_text(self, bad: Any, shown: str) -> None:
        with pytest.raises(DataError, match=rf"1 of 2 rows .*\n  row 2: prompt is {shown}; expected text\n"):
            read([{"prompt": "w0"}, {"prompt": bad}])

    def test_half_a_character(self) -> None:
        with pytest.raises(DataError, match=r"row 2: prompt holds half a character.* 'hi \\ud800'"):
            read([{"prompt": "a"}, {"prompt": "hi \ud800"}])
        with pytest.raises(DataError, match=r"row 1: label holds half a character"):
            read([{"prompt": "a", "label": "\ud800"}])

    def test_bad_rows_are_left_out_where_the_recipe_says_so(self) -> None:
        bad = [{"prompt": "w0"}, {"prompt": None}, {"prompt": "w1"}, {"prompt": 3}]
        assert read(bad, on_bad_row="skip") == [1, 3]
        with pytest.raises(DataError, match="Without them nothing is left"):
            read(bad[1:2], on_bad_row="skip")

    def test_each_prompt_once(self) -> None:
        twice = [{"prompt": "w0"}, {"prompt": "w1"}, {"prompt": "w0"}]
        assert read(twice, distinct=True) == [1, 2]
        assert read(twice) == [1, 2, 3]

    def test_an_empty_prompt(self) -> None:
        bare = tokenizer()
        bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
        with pytest.raises(DataError, match="row 3 is an empty prompt"):
            prompts([{"prompt": "w0"}, {"prompt": "w1"}, {"prompt": " "}], tokenizer=bare)

    def test_no_room_for_a_response(self) -> None:
        long = [{"prompt": "w0 w1"}, {"prompt": "w1 w2 w3 w4"}]
        assert prompts(long, context=9).longest == 5  # <s> and four words, and four more
        with pytest.raises(DataError, match=r"row 2 has 5 tokens.*4 more.*context holds 8.*'w1 w2 w3 w4'"):
            prompts(long, context=8)

    def test_only_prompts_that_the_run_asks_for_are_tokenized_before_it(self) -> None:
        """Whichever row is too long, the run that would ask for it does not begin, and the other does."""
        asked = set(prompts(rows(6), per_step=3).step(1).indices)
        for index in range(6):
            data = rows(6)
            data[index]["prompt"] = "w1 w2 w3 w4"
            if index in asked:
                with pytest.raises(DataError, match=f"row {index + 1} has 5 tokens"):
                    prompts(data, per_step=3, steps=1, context=8)
            else:
                assert prompts(data, per_step=3, steps=1, context=8).longest == 2

    def test_dynamic_sampling_passes_over_a_prompt_without_room(self) -> None:
        asked = prompts(rows(6), per_step=3).step(1).indices
        spare = sorted(set(range(6)) - set(asked))
        data = rows(6)
        data[spare[1]]["prompt"] = "w1 w2 w3 w4"
        short = prompts(data, per_step=3, steps=1, context=8)
        with pytest.warns(PpokitWarning, match=f"dynamic sampling left it out: .*row {spare[1] + 1} has 5"):
            batch = short.resample(1, 1, 3, set(asked))
        assert sorted(batch.indices) == [spare[0], spare[2]]


class TestWhatTheModelLacks:
    def test_a_token_without_an_embedding(self) -> None:
        """A token was added to the tokenizer, and the model was not resized."""
        data = rows(4)
        data[2]["prompt"] = "w1 w39"
        size = len(WORDS)
        assert prompts(data, vocabulary=size).longest == 3
        message = (
            rf"^prompts: row 3 has the token 'w39', id {size - 1}, and the model has embeddings for ids "
            rf"below {size - 1}\. Was the tokenizer given tokens"
        )
        with pytest.raises(DataError, match=message):
            prompts(data, vocabulary=size - 1)

    def test_a_template_that_refuses_the_system(self) -> None:
        refusal = "{{ raise_exception('no system role') }}"
        template = "{% if messages[0]['role'] == 'system' %}" + refusal + "{% endif %}" + TEMPLATE
        refusing = tokenizer(template=template)
        assert encode_prompts(["w1"], refusing, PromptSettings(path="data", chat=True))
        message = r"^prompts\.chat: .* refuses a chat with the message of prompts\.system: no system role"
        with pytest.raises(DataError, match=message):
            encode_prompts(["w1"], refusing, PromptSettings(path="data", chat=True, system="w2"))


def read_rows(path: str) -> list[dict[str, Any]]:
    return load_table(path, None, {"prompt"}).records()


class TestFiles:
    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(self, tmp_path: Path, name: str, text: str) -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    def test_a_file_has_no_splits(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.txt", "a\nb\n")
        with pytest.raises(DataError, match=r"p\.txt is a file, which has no split 'test'; leave split out$"):
            load_table(path, "test", {"prompt"})

    def test_json_lines_with_ragged_columns_and_odd_line_separators(self, tmp_path: Path) -> None:
        """U+2028 is no end of a line in JSON lines, though str.splitlines says so."""
        text = json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False)
        path = self.write(tmp_path, "p.jsonl", "\ufeff" + text + '\n\n{"prompt": "d", "n": 1}\n')
        assert read_rows(path) == [{"prompt": "a\u2028b\x85c", "n": None}, {"prompt": "d", "n": 1}]

    def test_cells_of_a_csv_are_texts(self, tmp_path: Path) -> None:
        """Also those that look like numbers or like a missing one; only an empty cell is missing."""
        text = "prompt,id,price,label,answer\n1,007,1.10,null,72\nNA,42,2.5,,\n"
        assert read_rows(self.write(tmp_path, "p.csv", text)) == [
            {"prompt": "1", "id": "007", "price": "1.10", "label": "null", "answer": "72"},
            {"prompt": "NA", "id": "42", "price": "2.5", "label": None, "answer": None},
        ]

    @pytest.mark.parametrize(("name", "between", "half"), [("p.csv", ",", "0.5"), ("q.csv", ";", "0,5")])
    def test_columns_of_a_type(self, tmp_path: Path, name: str, between: str, half: str) -> None:
        lines = (
            ["prompt", "n", "x", "y"],
            ["7", "1", half, "yes"],
            ["b", " -2 ", "1e-3", "FALSE"],
            ["c", "", "", ""],
        )
        path = self.write(tmp_path, name, "\n".join(between.join(cells) for cells in lines))
        settings = PromptSettings(path=path, types={"n": "int", "x": "float", "y": "bool"})
        assert read_prompts(settings, chat=False).records() == [
            {"prompt": "7", "n": 1, "x": 0.5, "y": True},
            {"prompt": "b", "n": -2, "x": 0.001, "y": False},
            {"prompt": "c", "n": None, "x": None, "y": None},
        ]

    def test_types_hold_for_every_format(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path, "p.jsonl", '{"prompt": "a", "n": 1, "id": 7}\n{"prompt": "b", "n": "2.5"}\n'
        )
        settings = PromptSettings(path=path, types={"n": "float", "id": "text"})
        rows = read_prompts(settings, chat=False).records()
        assert rows == [{"prompt": "a", "n": 1.0, "id": "7"}, {"prompt": "b", "n": 2.5, "id": None}]
        assert isinstance(rows[0]["n"], float)

    def test_a_cell_of_another_type_is_a_bad_row(self, tmp_path: Path) -> None:
        path = self.write(
            tmp_path,
            "p.csv",
            "prompt,n,x,y\na,1.5,1,1\nb,1,inf,0\nc,1,1,maybe\nd,1,1,no\ne,1_0,1,1\nf,1,٣,1\n",
        )
        settings = {"path": path, "types": {"n": "int", "x": "float", "y": "bool"}}
        with pytest.raises(DataError) as caught:
            read_prompts(PromptSettings.model_validate(settings), chat=False)
        for line in (
            "row 2: n is '1.5'; expected a whole number",
            "row 3: x is 'inf'; expected a number",
            "row 4: y is 'maybe'; expected true or false",
            "row 6: n is '1_0'; expected a whole number",
            "row 7: x is '٣'; expected a number",
        ):
            assert line in str(caught.value)
        with pytest.warns(PpokitWarning, match="bad rows left out: 5"):
            kept = read_prompts(PromptSettings.model_validate({**settings, "on_bad_row": "skip"}), chat=False)
        assert kept.records() == [{"prompt": "d", "n": 1, "x": 1.0, "y": False}]

    def test_a_type_of_no_column(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.csv", "prompt,answer\na,1\n")
        with pytest.raises(DataError, match=r"^prompts.types: .* no column 'answerr'; .* mean 'answer'\?$"):
            read_prompts(PromptSettings(path=path, types={"answerr": "int"}), chat=False)

    def test_prompts_stay_text(self) -> None:
        with pytest.raises(ValueError, match="'prompt' is the column of the prompts, which are text"):
            PromptSettings(path="p.csv", types={"prompt": "int"})
        assert PromptSettings(path="p.csv", column="q", types={"prompt": "int", "q": "text"})

    def test_two_columns_of_one_name(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"2 columns 'n' \(2 and 3, from the left\); rename all but one"):
            read_rows(self.write(tmp_path, "p.csv", "prompt,n,n\na,1,2\n"))

    def test_files_of_spreadsheets(self, tmp_path: Path) -> None:
        """What ratings may be, prompts may be; how the text was decoded is said."""
        (tmp_path / "p.csv").write_bytes("prompt;n\nun café noir;1\n".encode("cp1252"))
        with pytest.warns(PpokitWarning, match=r"p\.csv: not UTF-8, so read as Windows-1252.*un café noir"):
            kept = read_prompts(PromptSettings(path=str(tmp_path / "p.csv")), chat=False)
        assert kept.rows == [(2, ["un café noir", "1"])]
        (tmp_path / "q.tsv").write_bytes("\ufeffprompt\tn\nα\t1\n".encode("utf-16-le"))
        assert read_rows(str(tmp_path / "q.tsv")) == [{"prompt": "α", "n": "1"}]

    def test_bad_rows_are_counted(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.csv", "prompt,n\na,1\n,2\nb,2,3\nc,3\n")
        message = (
            r"^prompts\.path: .*p\.csv: 2 of 4 rows .*\n  row 3: prompt is empty.*\n  row 4: 3 cells, but"
        )
        with pytest.raises(DataError, match=message):
            read_prompts(PromptSettings(path=path), chat=False)
        with pytest.warns(
            PpokitWarning, match="bad rows left out: 2 .*, the first is row 3: prompt is empty"
        ):
            kept = read_prompts(PromptSettings(path=path, on_bad_row="skip"), chat=False)
        assert [number for number, _ in kept.rows] == [2, 5]

    def test_a_bad_line_is_named(self, tmp_path: Path) -> None:
        for name, text, message in (
            ("p.jsonl", '{"prompt": "a"}\n{"prompt": \n', "row 2: not JSON"),
            ("P.JSONL", '{"prompt": "a"}\n{"prompt": \n', "row 2: not JSON"),
            ("q.jsonl", '{"prompt": "a"}\n\n["a"]\n', "row 3: .* is no JSON object"),
        ):
            with pytest.raises(DataError, match=message):
                read_prompts(PromptSettings(path=self.write(tmp_path, name, text)), chat=False)

    def test_json(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.json", '[{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]')
        assert read_rows(path) == [{"prompt": "a", "n": 1}, {"prompt": "b", "n": 2}]

    def test_csv(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.csv", 'prompt,n\n"a, ""b""\nc",1\nd,2\n')
        assert read_rows(path) == [{"prompt": 'a, "b"\nc', "n": "1"}, {"prompt": "d", "n": "2"}]

    def test_lines_of_a_csv_that_end_in_a_comma(self, tmp_path: Path) -> None:
        """By default pandas takes the first of three columns as the rows' names, and shifts the others."""
        path = self.write(tmp_path, "p.csv", "prompt,topic\nOnce,animals,\nTom,boys,\n")
        assert read_rows(path) == [
            {"prompt": "Once", "topic": "animals"},
            {"prompt": "Tom", "topic": "boys"},
        ]

    def test_parquet(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"prompt": ["a", "b"], "tags": [["x"], []]}), tmp_path / "p.parquet")
        expected = [{"prompt": "a", "tags": ["x"]}, {"prompt": "b", "tags": []}]
        assert read_rows(str(tmp_path / "p.parquet")) == expected

    def test_text(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "p.txt", "one\u2028still one\ntwo\n")
        assert read_rows(path) == [{"text": "one\u2028still one"}, {"text": "two"}]
        blank = self.write(tmp_path, "q.txt", "one\n\n  \ntwo\n\n")
        assert read_rows(blank) == [{"text": "one"}, {"text": "two"}]

    @pytest.mark.parametrize("name", ["p.jsonl", "p.csv", "p.txt"])
    def test_an_empty_file(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(DataError, match=rf"prompts\.path: .*{name} is empty"):
            read_prompts(PromptSettings(path=self.write(tmp_path, name, "")), chat=False)

    def test_a_header_alone(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="has a header but no rows"):
            read_prompts(PromptSettings(path=self.write(tmp_path, "p.csv", "prompt\n")), chat=False)

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"prompts\.path: .*p\.docx ends in \.docx; expected \.csv"):
            read_prompts(PromptSettings(path=self.write(tmp_path, "p.docx", "x")), chat=False)

    def test_neither_a_file_nor_a_data_set(self) -> None:
        with pytest.raises(DataError, match=r"prompts\.path: no/such-set cannot be read"):
            read_prompts(PromptSettings(path="no/such-set"), chat=False)
