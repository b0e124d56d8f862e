"""docs/models.md is made of the matrix's table.

`python tests/models/test_model_page.py` writes it anew.
"""

from __future__ import annotations

from pathlib import Path

from architectures import ARCHITECTURES, FEATURES, Architecture, Refused

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

HEAD = """\
# Models

What was tried on {count} architectures: tiny models with random weights and every kind of layer that the
architecture has, each in runs of its own. `make models` does it again;
[tests/models/](../tests/models/) holds the checks.

Each run is checked, in float32 and to 1e-5 nats per token where nothing else is said:

1. Sampler, trainer and plain transformers, one text at a time and without a cache, give the same
   log-probabilities, with prompts of several lengths beside one another.
2. They do so after LoRA has been trained, on the whole vocabulary,
3. and after all weights have been,
4. at a temperature and with top-p.
5. The gradients of the policy's log-probabilities are those of autograd through the plain model.
6. The reference is the policy at the start, and the untrained model later.
7. The gradient of the values reaches the value function's parameters alone, and no batch changes a value.
8. Plain peft, or transformers, loads the saved policy with the same log-probabilities.
9. A run that stopped and was resumed ends with the same bits.
10. `ppokit generate --greedy` answers what the plain model finds likeliest.
11. The parity check of each step measures less than 1e-5; more on Zamba 2 and Nemotron-H, where transformers'
    own steps with a cache are up to 3e-4 from its own pass over the whole text. There the sampler is held to
    those steps.
12. Prompts of a chat stand in the chat template.

How a model is sampled is found out when it first comes. Prompts of several lengths are mostly read
together; those of BART, Pegasus and Mamba in groups of one length. RWKV, MiniMax and RecurrentGemma keep no
state that sampling could go on from: each text is read anew for each token, which is slow, and a warning
says so.

An architecture of the same kinds of layers as others in the table is not in it. These passed the same
checks: Arcee, Blenderbot, CodeGen, dots1, ERNIE 4.5, EXAONE 4, Falcon-Mamba, Gemma, GLM, GLM-MoE-DSA,
GraniteMoE, Helium, Hunyuan, LFM2-MoE, mBART, Ministral, OLMo 2, OLMo hybrid, OLMoE, Persimmon, Qwen2-MoE,
Qwen3.5-MoE, Seed-OSS, StarCoder 2 and Zamba.

The columns are what a recipe asks for: `lora` on every linear layer, unless a note says otherwise;
`lora: null`; `model.load_in_4bit`, against plain transformers on the same 4 bits; and a reward model that
`ppokit reward fit --model` makes of the same base and that scores on it (`shared_base: true`). What is
refused is refused by an error that names the recipe's key or the command's option, before any weight moves.

"""


def page() -> str:
    """The whole page."""
    notes: list[str] = []
    lines = [
        HEAD.format(count=len(ARCHITECTURES)),
        row("architecture", *FEATURES),
        "|---" * (len(FEATURES) + 1) + "|\n",
    ]
    for architecture in sorted(ARCHITECTURES, key=lambda one: one.name.lower()):
        lines.append(row(architecture.name, *(cell(architecture, feature, notes) for feature in FEATURES)))
    lines.append("\n" + "".join(f"{number}. {note}\n" for number, note in enumerate(notes, 1)))
    return "".join(lines)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"


def cell(architecture: Architecture, feature: str, notes: list[str]) -> str:
    """One word, and the number of its note."""
    outcome = architecture.outcomes.get(feature)
    if outcome is None:
        return "works"
    refused = isinstance(outcome, Refused)
    if isinstance(outcome, Refused):
        since = f", since transformers {outcome.since}" if outcome.since != Refused.since else ""
        note = f"`{outcome.key}`: {outcome.message}{since}."
    else:
        note = outcome.text
    if note not in notes:
        notes.append(note)
    number = notes.index(note) + 1
    return f"{'refused' if refused else 'works, restricted'} ({number})"


def test_the_page_is_that_of_the_matrix() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == page(), "write it anew by: python tests/models/test_model_page.py"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
