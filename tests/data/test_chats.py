"""Prompts that are chats: what they may be, what the template gets, and what people see of them."""

from __future__ import annotations

import copy
import csv
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chat_tokenizer import ENDS, TEMPLATE, chat_tokenizer
from ppokit.config.prompt_settings import PromptSettings
from ppokit.config.settings import RolloutSettings
from ppokit.data.chat_templates import render, set_template, warn_of_turn_end
from ppokit.data.prompt_rows import prompt_of, read_prompts
from ppokit.data.prompts import encode_prompts
from ppokit.errors import DataError, PpokitWarning
from ppokit.plugin.chats import ChatPrompt, chat_of, read_chat

HELLO = {"role": "user", "content": "Hello"}
CHAT = [
    {"role": "system", "content": "Be brief."},
    HELLO,
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "How\nare you?"},
]
CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
TOOLS = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]
CALLING = [
    HELLO,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "clock", "content": "12:00"},
]


def settings(**keys: Any) -> PromptSettings:
    return PromptSettings.model_validate({"path": "p.jsonl", "chat": True, **keys})


def rendered(prompt: str, **keys: Any) -> str:
    """By ppokit, whose ids must be those that transformers itself gives."""
    tokenizer = chat_tokenizer()
    chat, own = chat_of(prompt), settings(**keys)
    whole = encode_prompts([prompt], tokenizer, own)[0]
    if own.system is None and not own.prefill:
        expected = tokenizer.apply_chat_template(
            chat.messages,
            tools=chat.tools,
            add_generation_prompt=True,
            return_dict=False,
            **own.chat_template_kwargs,
        )
        assert whole == expected
    return str(tokenizer.decode(whole))


class TestText:
    def test_one_message_of_the_user_is_its_content(self) -> None:
        assert ChatPrompt([HELLO]) == "Hello"

    def test_several_messages_are_paragraphs(self) -> None:
        assert ChatPrompt(CHAT) == "System: Be brief.\n\nUser: Hello\n\nAssistant: Hi.\n\nUser: How\nare you?"

    def test_calls_of_tools(self) -> None:
        call = '{"name": "clock", "arguments": {"zone": "UTC"}}'
        assert ChatPrompt(CALLING) == f"User: Hello\n\nAssistant: {call}\n\nTool: 12:00"

    def test_a_copy_keeps_its_messages(self) -> None:
        prompt = ChatPrompt(CALLING, TOOLS)
        for other in (pickle.loads(pickle.dumps(prompt)), copy.deepcopy(prompt)):
            assert (other, other.messages, other.tools) == (prompt, prompt.messages, TOOLS)


class TestTemplate:
    def test_messages_reach_it_in_turn(self) -> None:
        assert rendered(ChatPrompt(CHAT)) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
            "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\nHow\nare you?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )

    def test_tools_and_their_calls_reach_it(self) -> None:
        text = rendered(ChatPrompt(CALLING, TOOLS))
        assert text.startswith(f"<|im_start|>tools\n{json.dumps(TOOLS)}<|im_end|>\n")
        assert '<call>{"name": "clock", "arguments": {"zone": "UTC"}}<|im_end|>' in text

    def test_arguments_as_openai_writes_them(self) -> None:
        call = {"id": "1", "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}}
        chat = [HELLO, {"role": "assistant", "content": "", "tool_calls": [call]}, CALLING[-1]]
        assert rendered(ChatPrompt(chat)) == rendered(ChatPrompt(CALLING))

    def test_the_system_of_a_chat_goes_before_the_recipes(self) -> None:
        own = rendered(ChatPrompt(CHAT), system="Be long.")
        assert own == rendered(ChatPrompt(CHAT))
        assert rendered("Hello", system="Be long.").startswith("<|im_start|>system\nBe long.<|im_end|>\n")
        assert rendered(ChatPrompt(CHAT[1:]), system="Be brief.") == own

    def test_kwargs(self) -> None:
        thinking = rendered("Hello", chat_template_kwargs={"enable_thinking": True})
        assert thinking == rendered("Hello")
        none = rendered("Hello", chat_template_kwargs={"enable_thinking": False})
        assert none == thinking + "<think>\n\n</think>\n\n"

    def test_kwargs_that_it_does_not_read(self) -> None:
        kwargs = {"enable_thinkin": False, "enable_thinking": False}
        message = r"chat_template_kwargs: .* does not read 'enable_thinkin'; did you mean 'enable_thinking'\?"
        with pytest.warns(PpokitWarning, match=message):
            set_template(chat_tokenizer(), settings(chat_template_kwargs=kwargs))
        with warnings.catch_warnings(action="error"):
            set_template(chat_tokenizer(), settings(chat_template_kwargs={"enable_thinking": False}))
        with pytest.raises(ValueError, match="'tokenize' is ppokit's to say"):
            settings(chat_template_kwargs={"tokenize": True})

    def test_a_file_in_its_place(self, tmp_path: Path) -> None:
        path = tmp_path / "t.jinja"
        path.write_text("{% generation %}{% endgeneration %}\n{{ messages | no_filter }}")
        with pytest.raises(
            DataError, match=r"^prompts\.chat_template: .*t\.jinja is no Jinja template, line 2"
        ):
            set_template(chat_tokenizer(), settings(chat_template=str(path)))
        path.write_text("{% generation %}{{ messages[0].content }}{% endgeneration %}>")
        tokenizer = chat_tokenizer(None)
        set_template(tokenizer, settings(chat_template=str(path)))
        assert render("Hello", tokenizer, settings()) == "Hello>"
        with pytest.raises(DataError, match=r"^prompts\.chat_template: no\.jinja cannot be read"):
            set_template(tokenizer, settings(chat_template="no.jinja"))

    @pytest.mark.parametrize("refusal", ["{{ raise_exception('no tools') }}", "{{ '' + m.content.parts }}"])
    def test_a_chat_that_it_refuses(self, refusal: str) -> None:
        template = "{% for m in messages %}{% if m.role == 'tool' %}" + refusal + "{% endif %}{% endfor %}"
        with pytest.raises(DataError, match=r"^prompts\.chat: .* refuses a chat: .* begins 'User: Hello"):
            render(ChatPrompt(CALLING), chat_tokenizer(template), settings())


class TestCells:
    def read(self, tmp_path: Path, name: str, content: Any, **keys: Any) -> list[str]:
        path = tmp_path / name
        if name.endswith(".parquet"):
            pq.write_table(pa.table(content), path)
        elif name.endswith(".csv"):
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["prompt"], *([cell] for cell in content)])
        else:
            path.write_text("\n".join(json.dumps({"prompt": cell}) for cell in content))
        own = settings(path=str(path), **keys)
        rows = read_prompts(own, chat=own.chat).records()
        prompts = [prompt_of(row, own) for row in rows]
        for row, prompt in zip(rows, prompts, strict=True):
            if isinstance(prompt, ChatPrompt):
                assert row["prompt"] == prompt.messages, "rewards get at them"
        return prompts

    def test_json_lines(self, tmp_path: Path) -> None:
        first, second = self.read(tmp_path, "p.jsonl", [CHAT, "Hello"])
        assert (chat_of(first).messages, chat_of(second).messages) == (CHAT, [HELLO])

    def test_parquet_fills_in_no_keys(self, tmp_path: Path) -> None:
        first, second = self.read(tmp_path, "p.parquet", {"prompt": [CHAT, CALLING], "tools": [None, TOOLS]})
        assert chat_of(first).messages == CHAT
        assert chat_of(second).messages[1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}
        assert chat_of(second).tools is None
        _, with_tools = self.read(
            tmp_path,
            "p.parquet",
            {"prompt": [CHAT, CALLING], "tools": [None, json.dumps(TOOLS)]},
            tools="tools",
        )
        assert chat_of(with_tools).tools == TOOLS

    def test_text_in_a_csv(self, tmp_path: Path) -> None:
        """As json and as pandas write them."""
        cells = [json.dumps(CHAT), str(CHAT), "[1] is a list", json.dumps([HELLO], indent=2)]
        chats = self.read(tmp_path, "p.csv", cells)
        assert [chat_of(chat).messages for chat in chats[:2]] == [CHAT, CHAT]
        assert chats[2:] == ["[1] is a list", "Hello"]

    @pytest.mark.parametrize("first", [{"name": "Ann"}, {"id": 7, "tool_calls": None}])
    def test_written_chats_whose_role_comes_later(self, first: dict[str, Any]) -> None:
        assert chat_of(read_chat(json.dumps([{**first, **HELLO}]))).messages[0]["content"] == "Hello"

    @pytest.mark.parametrize("write", [dict, json.dumps, str])
    @pytest.mark.parametrize("key", ["messages", "chat"])
    def test_an_object_that_holds_the_messages(self, tmp_path: Path, write: Any, key: str) -> None:
        whole = {"id": 7, "tags": ["a"], "tools": TOOLS, key: CHAT}
        few = {key: CHAT, "tools": None}
        path = tmp_path / "p.jsonl"
        path.write_text("".join(json.dumps({"prompt": write(cell)}) + "\n" for cell in (whole, few)))
        own = settings(path=str(path))
        first, second = [prompt_of(row, own) for row in read_prompts(own, chat=True).records()]
        assert (chat_of(first).messages, chat_of(first).tools) == (CHAT, TOOLS)
        assert (chat_of(second).messages, chat_of(second).tools) == (CHAT, None)

    def test_text_that_begins_as_an_object(self) -> None:
        text = '{"user": [{"name": "Ann", "role": "admin"}]} Who is she?'
        assert read_chat(text) == text

    def test_answers_without_content(self) -> None:
        """As OpenAI writes calls without arguments, and answers that were refused or only thought."""
        call = {"id": "1", "type": "function", "function": {"name": "time", "arguments": ""}}
        answer = {"role": "assistant", "content": None, "refusal": "No."}
        calls = [{"role": "assistant", "content": None, "tool_calls": [call]}, *CALLING[2:]]
        messages = chat_of(read_chat([HELLO, answer, HELLO, *calls])).messages
        assert messages[1] == {"role": "assistant", "content": "", "refusal": "No."}
        assert messages[3]["content"] == ""
        assert messages[3]["tool_calls"][0]["function"] == {"name": "time", "arguments": {}}

    def test_text_that_begins_as_a_list_of_mappings(self) -> None:
        text = '[{"name": "Ann", "role": "admin"}] Who is she?'
        assert read_chat(text) == text

    def test_parts_of_text(self) -> None:
        parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "!"}]
        assert chat_of(read_chat([{"role": "user", "content": parts}])) == "Hello!"

    @pytest.mark.parametrize(
        ("cell", "fault"),
        [
            ([], "an empty chat; expected a list of messages"),
            (
                [*CHAT, {"role": "assistant", "content": "Fine."}],
                "last message is of the role assistant; .*leave",
            ),
            (CHAT[:1], "last message is of the role system; expected the user's or a tool's"),
            ([{"from": "human", "value": "Hi"}], "message 1 has no role, which has from and value"),
            ([{"role": "human", "content": "Hi"}], "message 1 is of the role 'human'; expected system, "),
            ([HELLO, {"role": "user"}], "the content of message 2 is None; expected text"),
            ([{"role": "user", "content": [{"type": "image"}]}], r"message 1 is \[\{'type': 'image'\}\]"),
            (
                [
                    {
                        "role": "user",
                        "content": [{"type": "image", "text": ""}, {"type": "text", "text": "Hi"}],
                    }
                ],
                r"message 1 is \[\{'type': 'image'",
            ),
            (["Hello"], "message 1 has no role"),
            ({"role": "user", "content": "Hi"}, "expected text or a list of messages"),
            (json.dumps(CHAT)[:-9], "a list or object that is not JSON"),
            (7, "expected text or a list of messages"),
        ],
    )
    def test_what_is_no_chat_is_named_by_row(self, tmp_path: Path, cell: Any, fault: str) -> None:
        with pytest.raises(
            DataError, match=rf"(?s)^prompts\.path: .* 1 of 2 rows .*  row 2: prompt .*{fault}"
        ):
            self.read(tmp_path, "p.jsonl", [CHAT, cell])
        with pytest.warns(PpokitWarning, match="bad rows left out: 1"):
            assert len(self.read(tmp_path, "p.jsonl", [CHAT, cell], on_bad_row="skip")) == 1

    def test_half_a_character(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="row 1: prompt holds half a character"):
            self.read(tmp_path, "p.jsonl", [[{"role": "user", "content": "\ud800"}]])

    def test_without_chat(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"row 1: prompt is \[.*expected text, or prompts.chat: true for"):
            self.read(tmp_path, "p.jsonl", [CHAT], chat=False)
        assert self.read(tmp_path, "p.csv", [json.dumps(CHAT)], chat=False) == [json.dumps(CHAT)]

    def test_each_chat_once(self, tmp_path: Path) -> None:
        assert len(self.read(tmp_path, "p.jsonl", [CHAT, CALLING, CHAT], distinct=True)) == 2


class TestEndOfATurn:
    def warned(self, template: str, ends: tuple[str, ...] = (), **rollout: Any) -> list[str]:
        tokenizer = chat_tokenizer(template)
        ids = {tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(ends))}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_turn_end(tokenizer, settings(), ids, RolloutSettings(**rollout))
        return [str(warning.message) for warning in caught]

    def test_one_that_ends_no_response(self) -> None:
        (text,) = self.warned(TEMPLATE)
        assert "ends an answer with '<|im_end|>', which ends no response here" in text
        assert "Set rollout.end_tokens: [<|im_end|>]" in text
        assert not self.warned(TEMPLATE, (ENDS,))
        assert not self.warned(TEMPLATE, stop_token_ids=(chat_tokenizer().convert_tokens_to_ids(ENDS),))

    def test_text_that_ends_one(self) -> None:
        template = "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}\n### {% endfor %}"
        (text,) = self.warned(template)
        assert "ends an answer with '###'" in text
        assert text.endswith("Set rollout.stop: ['###']")
        assert not self.warned(template, stop=("###",))

    @pytest.mark.parametrize("end", ["", "\n", " {{ eos_token }}", "{{ eos_token }}\n"])
    def test_what_the_end_of_sequence_ends(self, end: str) -> None:
        assert not self.warned("{% for m in messages %}{{ m.role + m.content }}" + end + "{% endfor %}")

    def test_no_chat(self) -> None:
        warn_of_turn_end(chat_tokenizer(), settings(chat=False), {0}, RolloutSettings())
