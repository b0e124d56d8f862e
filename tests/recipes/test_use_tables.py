"""How figures of uses become tables: intervals, guards, marks, and what stands between a page's marks."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import REPOSITORY

BENCHMARK = REPOSITORY / "benchmarks" / "uses"
sys.path.insert(0, str(BENCHMARK))

from guards import length_loss, variety_loss  # noqa: E402
from intervals import interval  # noqa: E402
from results import digest, inputs, read_results, result_file, variety  # noqa: E402
from tables import answers, figures, filled, table, verdict  # noqa: E402

from uses import USES  # noqa: E402

SAME = {"sampled/repetition": 0.25, "texts/perplexity": 20.0}


def run(seed: int, before: list[float], after: list[float], **changes: Any) -> dict[str, Any]:
    """A run's result, as its file has it."""
    return {
        "use": "translation",
        "files": digest(inputs(USES["translation"])),
        "seed": seed,
        "date": "2026-11-28",
        "machine": {"cpu": "A CPU", "cores": 2, "dtype": "float32", "threads": 1, "torch": "2.11.0"},
        "steps": 14,
        "minutes": 4.6,
        "peak_gb": 3.14,
        "judge": {"name": "judge/score", "before": before, "after": after},
        "beside": {},
        "trivial": {"prompt": 8.0, "fixed": 9.0, "best": 9.5},
        "words": {"before": 10.0, "after": 10.4, "reference": 10.4},
        "distinct_2": {"before": 0.5, "after": 0.5, "reference": 1.1},
        "finished": [0.5, 1.0],
        "evaluation": {"before": SAME, "after": SAME},
        "answers": [{"prompt": "English: Good day.\nGerman:", "before": "Good day.", "after": "Guten Tag."}],
        **changes,
    }


TWO = [run(0, [10.0, 20.0], [12.0, 22.0]), run(1, [10.0, 20.0], [11.0, 21.0])]


class TestTables:
    def test_an_interval_draws_prompts_and_seeds(self) -> None:
        """Every prompt of a seed gains the same: one seed's interval is a point.

        Of two seeds that differ by 1 from their mean by .5, half of the draws have one of them alone: its
        distance from the mean is widened by sqrt(2).
        """
        assert interval(TWO[:1]) == (2.0, 2.0, 2.0)
        assert interval(TWO) == pytest.approx((1.5, 1.5 - 0.5 * 2**0.5, 1.5 + 0.5 * 2**0.5))

    def test_an_interval_of_prompts_is_that_of_their_mean(self) -> None:
        """100 differences of mean 0 and deviation 1: 1.96 standard errors to each side, within a fifth."""
        differences = [(-1.0) ** i for i in range(100)]
        mean, low, high = interval([run(0, [0.0] * 100, differences)])
        assert mean == 0
        assert low == pytest.approx(-0.196, rel=0.2)
        assert high == pytest.approx(0.196, rel=0.2)

    def test_a_row_has_every_figure(self) -> None:
        head, _, row, _, made, _, gained = table({"translation": TWO}, "..").splitlines()
        cells = dict(zip(*(map(str.strip, line.split("|")[1:-1]) for line in (head, row)), strict=True))
        assert cells["use"] == "[Translation](../translation)"
        assert (cells["before"], cells["after"]) == ("15", "16.5")
        assert cells["trivial answers"] == "the prompt 8; a fixed one 9, the best 9.5"
        assert cells["gain, 95 % interval"] == "+1.5 (+0.79 to +2.2)"
        assert cells["per seed"] == "+2, +1"
        assert (cells["words (references)"], cells["perplexity"]) == ("10.0 to 10.4 (10.4)", "+0%")
        assert (cells["repeated"], cells["finished"]) == ("25.0% to 25.0%", "50% to 100%")
        assert (cells["minutes"], cells["GB"]) == ("5", "3.1")
        assert made == "2026-11-28; A CPU, 1 of 2 cores, float32, torch 2.11.0."
        assert gained.startswith("Of 1 uses 1 have gained with an interval above 0. No guard has lost more")

    def test_what_was_measured_by_an_earlier_recipe_is_marked(self) -> None:
        text = table({"translation": [run(0, [1.0, 2.0], [2.0, 3.0], files="others")]}, "..")
        assert "| [Translation](../translation) \N{DAGGER} |" in text
        assert "\N{DAGGER}: by an earlier recipe or earlier data of the project's own." in text

    def test_a_second_number_stands_beside_the_gain(self) -> None:
        own = {"before": [0.0, 0.0], "after": [0.25, 0.25]}
        own_run = run(0, [0.0], [0.5], beside={"judge/f1_where_some": own}, trivial=None)
        assert (
            "| +0.5 (+0.5 to +0.5); of messages that have something to find +0.25 (+0.25 to +0.25) |"
            in table({"sensitive_information": [own_run]}, "..")
        )
        assert "Of messages that have something to find: gain +0.25 (" in figures(
            USES["sensitive_information"], [own_run], []
        )

    def test_what_did_not_gain_or_was_not_measured_counts_against(self) -> None:
        flat = run(0, [1.0, 2.0], [1.0, 2.0], evaluation={"before": {}, "after": {}})
        assert verdict({"translation": [flat]}).startswith("Of 1 uses 0 have gained")
        assert "In Translation a guard has lost more than 5% in the mean of its seeds." in verdict(
            {"translation": [flat]}
        )

    def test_a_guard_beyond_its_bound_is_bold(self) -> None:
        """What is not repeated and the pairs of words only down; perplexity only up."""
        before = {"texts/perplexity": 20.0, "sampled/repetition": 0.5}
        for factor, bold in ((0.9, (True, True, False)), (1.1, (False, False, True))):
            after = {name: number * factor for name, number in before.items()}
            after["sampled/repetition"] = 1 - 0.5 * factor
            moved = {
                "evaluation": {"before": before, "after": after},
                "distinct_2": {"before": 0.5, "after": 0.5 * factor, "reference": 1.1},
            }
            row = table({"translation": [run(0, [1.0, 2.0], [2.0, 3.0], **moved)]}, "..").splitlines()[2]
            change = f"{factor - 1:+.0%}"
            cells = [f"50.0% to {1 - 0.5 * factor:.1%}", f"{change} (+10%)", change]
            expected = [f"**{text}**" if own else text for text, own in zip(cells, bold, strict=True)]
            assert row.split(" | ")[8:11] == expected

    def test_one_seed_that_lost_too_much_is_named(self) -> None:
        """The mean of nothing and 8 % is within the bound, and the seed of 8 % is not."""
        runs = [
            run(seed, [1.0], [2.0], evaluation={"before": SAME, "after": SAME | {"texts/perplexity": after}})
            for seed, after in enumerate((20.0, 21.6))
        ]
        assert "| +4% (worst 8%) |" in table({"translation": runs}, "..")

    def test_a_length_is_worse_where_it_is_further_from_the_references(self) -> None:
        """On the other side all that it is off by counts: 20 words to 1 are no way to a reference's 10."""
        assert length_loss(20.0, 11.0, 10.0) == pytest.approx(-0.9)
        assert length_loss(20.0, 9.0, 10.0) == pytest.approx(0.1)
        assert length_loss(20.0, 1.0, 10.0) == pytest.approx(0.9)
        assert length_loss(10.0, 9.0, 10.0) == pytest.approx(0.1)
        assert length_loss(8.0, 10.4, 10.0) == pytest.approx(0.04)
        words = {"before": 9.6, "reference": 10.0}
        for after, cell in ((9.2, "9.6 to 9.2 (10.0)"), (9.0, "**9.6 to 9.0 (10.0)**")):
            row = table(
                {"translation": [run(0, [1.0, 2.0], [2.0, 3.0], words=words | {"after": after})]}, ".."
            )
            assert cell in row.splitlines()[2].split(" | ")

    def test_variety_that_people_do_not_have_is_not_lost(self) -> None:
        """Adverts of one town's restaurants are alike: the references have half of the untrained variety."""
        assert variety_loss(0.7, 0.5) < 0
        assert variety_loss(0.5, 0.5) == 0
        assert variety_loss(0.45, 0.5) == pytest.approx(0.1)
        assert variety_loss(0.9, 1.2) == pytest.approx(0.1)
        for after, cell in ((0.35, "-30% (-50%)"), (0.2, "**-60% (-50%)**")):
            of_references = {"before": 0.5, "after": after, "reference": 0.5}
            row = table({"translation": [run(0, [1.0], [2.0], distinct_2=of_references)]}, "..")
            assert cell in row.splitlines()[2].split(" | ")

    def test_distinct_2_is_of_as_many_pairs_before_and_after(self) -> None:
        """Of a-b, a-b, b-a and one pair more, two drawn are the two a-b once in six: 11/6 of 2 different."""
        assert variety(["x y z"], ["a b a b", "c d"]) == {"before": 1.0, "after": pytest.approx(11 / 12)}
        assert variety(["a b a b", "C D"], ["x y"]) == {"before": 1.0, "after": 1.0}
        assert variety(["A b", "a b"], ["a b c"])["before"] == 0.5
        assert math.isnan(variety(["word"], ["two words"])["after"])

    def test_seeds_of_different_data_are_not_put_together(self, tmp_path: Path) -> None:
        for seed, known in enumerate(("old", "new", "new")):
            path = result_file(tmp_path, "own", "translation", seed)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(run(seed, [1.0] * (seed + 1), [2.0] * (seed + 1), digest=known)))
        assert [result["seed"] for result in read_results(tmp_path, "own")["translation"]] == [1, 2]

    def test_what_was_not_run_is_left_out(self) -> None:
        assert table({}, "..") == ""
        assert figures(USES["translation"], [], []) == answers([]) == ""
        sentence = figures(USES["translation"], TWO, TWO[:1])
        assert sentence.count("\n") == 1
        assert "15 before, 16.5 after; gain +1.5, 95 % interval +0.79 to +2.2 (2 seeds, 2 held" in sentence

    def test_no_answer_can_end_its_block(self) -> None:
        hostile = run(0, [1.0], [1.0])
        hostile["answers"][0]["after"] = "```\n<script>\x1b[2J\u202e"
        *inside, last = answers([hostile]).splitlines()[1:]
        assert last == "```"
        assert not [line for line in inside if "```" in line or not line.isprintable()]
        assert len(inside) == 3

    def test_only_what_is_between_the_marks_changes(self) -> None:
        page = "before\n<!-- own -->\nold\n<!-- /own -->\nafter\n"
        assert (
            filled(page, {"own": "new \\1"}, "p")
            == "before\n<!-- own -->\n\nnew \\1\n\n<!-- /own -->\nafter\n"
        )
        with pytest.raises(ValueError, match=r"p has the marks <!-- real -->"):
            filled(page, {"real": ""}, "p")

    def test_the_plan_counts_parameters_as_transformers_does(self) -> None:
        from plan import SIZES
        from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

        for size, kind in zip(SIZES[:2], (LlamaConfig, Qwen2Config), strict=True):
            config = kind(
                hidden_size=size.hidden,
                num_hidden_layers=size.layers,
                num_attention_heads=size.heads,
                num_key_value_heads=size.key_heads,
                intermediate_size=size.inner,
                vocab_size=size.vocabulary,
                tie_word_embeddings=size.tied,
            )
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
            assert sum(own.numel() for own in model.parameters()) == size.parameters
            linear = [own for own in model.model.layers[0].modules() if isinstance(own, torch.nn.Linear)]
            assert sorted((own.in_features, own.out_features) for own in linear) == sorted(size.linear)
