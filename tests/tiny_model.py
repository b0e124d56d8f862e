"""The tests' own language model: a Llama of 260,000 parameters that tells short stories, trained in seconds.

    python tests/tiny_model.py          prints its folder, after training it if need be

The stories come from a grammar, so that nothing is downloaded. The tokenizer is a byte-level BPE of 512
entries that puts `<s>` before a text; it has a chat template and no padding token. The folder lies in the
cache folder of ppokit, named by a hash of this file, of the libraries' versions and of the processor's
kind: one thread, float32 and fixed seeds give the same bits wherever that hash is the same.
"""

from __future__ import annotations

import hashlib
import platform
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tokenizers
import torch
import transformers
from filelock import FileLock
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ppokit.models.gguf import cache_folder

SPECIAL = ("<unk>", "<s>", "</s>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
STORIES = 3000
STEPS, ROWS, TOKENS = 120, 16, 64
LEARNING_RATE = 6e-3

PEOPLE = ("Lily", "Tom", "Anna", "Ben", "Sam", "Mia", "Mom", "Dad", "The dog", "The cat", "The bird", "A boy")
PRONOUNS = {"Lily": "She", "Anna": "She", "Mia": "She", "Mom": "She", "The dog": "It", "The cat": "It"}
KINDS = ("big", "little", "red", "happy", "sad", "good", "old", "small", "nice", "funny", "brave", "soft")
THINGS = (
    "ball",
    "dog",
    "cat",
    "tree",
    "toy",
    "house",
    "car",
    "flower",
    "bird",
    "cake",
    "box",
    "game",
    "book",
)
PLACES = ("park", "garden", "house", "shop", "forest", "school", "beach", "lake", "farm")
DEEDS = ("play", "run", "jump", "sing", "dance", "swim", "eat", "sleep", "read", "help", "draw", "love all")
FEELINGS = (
    "happy",
    "sad",
    "very happy",
    "tired",
    "glad",
    "afraid",
    "proud",
    "not happy",
    "so sad",
    "fun",
    "good",
)
SAYINGS = (
    "I love you",
    "Let us play",
    "Thank you",
    "This is fun",
    "Be good",
    "Look at that",
    "I am sad",
    "No",
)
PAST = ("saw", "found", "liked", "wanted", "had", "loved", "took", "made", "lost", "gave away")


class Storyteller:
    """Sentences drawn from a grammar by one stream of random numbers."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def one_of(self, words: tuple[str, ...]) -> str:
        return words[int(self.random.random() * len(words))]

    def thing(self) -> str:
        kind = f"{self.one_of(KINDS)} " if self.random.random() < 0.6 else ""
        phrase = f"{self.one_of(('a', 'a', 'the'))} {kind}{self.one_of(THINGS)}"
        return phrase.replace("a old", "an old")

    def sentence(self, subject: str) -> str:
        rules: tuple[Callable[[], str], ...] = (
            lambda: f"{subject} {self.one_of(PAST)} {self.thing()}.",
            lambda: f"{subject} went to the {self.one_of(PLACES)} and {self.one_of(PAST)} {self.thing()}.",
            lambda: f"{subject} liked to {self.one_of(DEEDS)} in the {self.one_of(PLACES)}.",
            lambda: (
                f"{subject} was {self.one_of(FEELINGS)}, and {self.thing()} was {self.one_of(FEELINGS)} too."
            ),
            lambda: f'{subject} said, "{self.one_of(SAYINGS)}, {self.one_of(PEOPLE[:8])}!"',
            lambda: f"{subject} smiled and {self.one_of(PAST)} {self.thing()} with {self.thing()}.",
        )
        return rules[int(self.random.random() * len(rules))]()

    def story(self) -> str:
        hero = self.one_of(PEOPLE)
        name, deed, place = hero.replace("The", "the"), self.one_of(DEEDS), self.one_of(PLACES)
        opening = (
            f"Once upon a time there was {self.thing()} who liked to {deed} in the {place}.",
            f"One day, {name} went to the {place}.",
            f"There was a {self.one_of(KINDS)} {self.one_of(THINGS)} in the {place}.",
            self.sentence(hero),
        )
        sentences = [self.one_of(opening)]
        for _ in range(1 + int(self.random.random() * 5)):
            subject = hero if self.random.random() < 0.3 else PRONOUNS.get(hero, "He")
            sentences.append(self.sentence(subject))
        return " ".join(sentences)


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(vocabulary: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).float()


def train(model: LlamaForCausalLM, stream: Tensor) -> float:
    """Next-token prediction on rows of a stream of token ids; the last loss, in nats per token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1)
    model.train()
    loss = torch.zeros(())
    for _ in range(STEPS):
        starts = torch.randint(len(stream) - TOKENS, (ROWS, 1))
        rows = stream[starts + torch.arange(TOKENS)]
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return float(loss.detach())


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """One thread and seeded random numbers; afterwards all is as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def build(folder: Path) -> float:
    """Train the model and write it, with its tokenizer, into a folder; the last loss, in nats per token."""
    teller = Storyteller(seed=0)
    stories = [teller.story() for _ in range(STORIES)]
    tokenizer = make_tokenizer(stories)
    ids = [[*tokenizer(story)["input_ids"], tokenizer.eos_token_id] for story in stories]
    with reproducible(seed=0):
        model = make_model(len(tokenizer))
        loss = train(model, torch.tensor([token for story in ids for token in story]))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loss


def key() -> str:
    """What the model's bits depend on."""
    parts = (
        Path(__file__).read_text(encoding="utf-8"),
        torch.__version__,
        transformers.__version__,
        tokenizers.__version__,
        platform.machine(),
        torch.backends.cpu.get_cpu_capability(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def tiny_model_folder() -> Path:
    """The folder of the trained model; the first process to ask trains it, and others wait."""
    folder = cache_folder() / "tests" / f"tiny-{key()}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            tmp_path = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making-"))
            try:
                build(tmp_path)
                tmp_path.rename(folder)  # whole or not there
            finally:
                shutil.rmtree(tmp_path, ignore_errors=True)
    return folder


if __name__ == "__main__":
    print(tiny_model_folder())
