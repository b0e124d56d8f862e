"""ppokit's own `evaluate` modules, by hand and by the libraries beneath, and one number per response."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu as library

from ppokit.plugin import PluginError
from ppokit_metrics.finding import OWN, problems
from ppokit_metrics.loading import Metric

PREDICTIONS = ["the cat sat", "a dog", "birds fly high today"]
REFERENCES = ["the cat sat down", "one dog", "birds fly high today"]


def metric(name: str, **arguments: Any) -> Metric:
    return Metric(name, None, arguments)


def test_their_names() -> None:
    assert OWN == ("accuracy", "chrf", "exact_match", "f1", "rouge", "sacrebleu")
    assert [list(problems(name)) for name in OWN] == [[]] * len(OWN)


def test_rouge_by_hand() -> None:
    """F = 2 c / (p + r) for c shared of p and r n-grams: 2 * 3 / (3 + 4) words, 2 * 2 / (2 + 3) pairs."""
    each = metric("rouge").per_response(PREDICTIONS, REFERENCES)
    assert each["rouge1"] == pytest.approx([6 / 7, 1 / 2, 1.0])
    assert each["rouge2"] == pytest.approx([4 / 5, 0.0, 1.0])
    assert each["rougeL"] == pytest.approx([6 / 7, 1 / 2, 1.0])
    whole = metric("rouge").compute(PREDICTIONS, REFERENCES)
    assert set(whole) == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
    # The median of bootstrap means, as on the hub: near the mean of three.
    assert whole["rouge1"] == pytest.approx((6 / 7 + 1 / 2 + 1) / 3, abs=0.08)
    one = metric("rouge", rouge_types=["rouge2"]).compute(PREDICTIONS[:1], REFERENCES[:1])
    assert one == {"rouge2": pytest.approx(4 / 5)}


def test_rouge_draws_the_same_in_each_process() -> None:
    """Its bootstrap is drawn from numpy's numbers of the process, which begin anywhere."""
    numbers = []
    for seed in (1, 2):
        np.random.seed(seed)
        numbers.append(metric("rouge").compute(PREDICTIONS * 4, REFERENCES * 4))
    assert numbers[0] == numbers[1]


def test_rouge_takes_the_best_of_several_references() -> None:
    each = metric("rouge").per_response(["the cat sat"], [["a bird", "the cat sat down"]])
    assert each["rouge1"] == pytest.approx([6 / 7])


def test_bleu_by_hand() -> None:
    """Five of five words, 4, 3 and 2 of longer ones, and five words where the reference has six."""
    text, reference = "the cat sat on the", "the cat sat on the mat"
    whole = metric("sacrebleu").compute([text], [reference])
    assert whole["score"] == pytest.approx(100 * math.exp(1 - 6 / 5))
    assert (whole["counts"], whole["totals"]) == ([5, 4, 3, 2], [5, 4, 3, 2])
    assert whole["bp"] == pytest.approx(math.exp(-0.2))


def test_bleu_of_a_corpus_is_that_of_the_library() -> None:
    more = [[first, second] for first, second in zip(REFERENCES, PREDICTIONS[::-1], strict=True)]
    whole = metric("sacrebleu").compute(PREDICTIONS, more)
    expected = library.corpus_bleu(PREDICTIONS, [REFERENCES, PREDICTIONS[::-1]])
    assert whole["score"] == expected.score
    each = metric("sacrebleu").per_response(PREDICTIONS, REFERENCES)["score"]
    pairs = zip(PREDICTIONS, REFERENCES, strict=True)
    assert each == [library.sentence_bleu(text, [reference]).score for text, reference in pairs]
    assert each[2] == pytest.approx(100.0)


def test_chrf_by_hand() -> None:
    """Of "ab" in "abc": P = 1 and R = 2/3 by letters, 1 and 1/2 by pairs; F with beta = 2 of the means."""
    each = metric("chrf", char_order=2).per_response(["ab", "xy"], ["abc", "abc"])["score"]
    precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
    assert each == pytest.approx([100 * 5 * precision * recall / (4 * precision + recall), 0.0])
    whole = metric("chrf").compute(PREDICTIONS, REFERENCES)
    assert whole["score"] == library.corpus_chrf(PREDICTIONS, [REFERENCES]).score
    assert (whole["char_order"], whole["word_order"], whole["beta"]) == (6, 0, 2)


def test_exact_match_by_hand() -> None:
    texts, references = ["Yes!", "no", "42 cats", "a  b"], ["yes", "no", "7 cats", "a b"]

    def share(**arguments: Any) -> float:
        return float(metric("exact_match", **arguments).compute(texts, references)["exact_match"])

    assert share() == 1 / 4
    assert share(ignore_case=True, ignore_punctuation=True) == 2 / 4
    assert share(ignore_numbers=True) == 2 / 4
    assert share(regexes_to_ignore=[r"\s+"]) == 2 / 4
    assert metric("exact_match").per_response(texts, references) == {"exact_match": [0.0, 1.0, 0.0, 0.0]}


def test_f1_and_accuracy_by_hand() -> None:
    """Positives found: 1 right and 1 wrong, of 2 that there are."""
    labels, truth = ["spam", "spam", "ham", "ham"], ["spam", "ham", "spam", "ham"]
    assert metric("f1", pos_label="spam").compute(labels, truth) == {"f1": 0.5}
    assert metric("f1").compute([1, 0, 0], [1, 1, 0]) == {"f1": pytest.approx(2 / 3)}
    assert metric("accuracy").compute(labels, truth) == {"accuracy": 0.5}
    # Numbers as texts, and what a policy writes besides: 1 found of 2, and 1 of 2 that it names.
    written, digits = ["1", "0", "1 and more", "1"], ["1", "1", "0", "0"]
    assert metric("f1", pos_label="1").compute(written, digits) == {"f1": 0.5}
    assert metric("accuracy").compute(written, digits) == {"accuracy": 0.25}
    assert metric("accuracy").per_response(labels, truth) == {"accuracy": [1.0, 0.0, 0.0, 1.0]}


@pytest.mark.parametrize("arguments", [{}, {"pos_label": "Spam"}, {"pos_label": 1}])
def test_f1_of_a_label_that_there_is_not_is_refused(arguments: dict[str, Any]) -> None:
    """Without the label's name it would be 0 of whatever the policy learns."""
    label = arguments.get("pos_label", 1)
    message = rf"no label is '?{label}'?, which .*such as 'spam', or {{average: macro}}"
    with pytest.raises(PluginError, match=message):
        metric("f1", **arguments).compute(["ham", "I think spam"], ["spam", "ham"])


def test_a_number_of_a_whole_set_is_refused_per_response() -> None:
    message = r"'f1' gives one number for a whole set .* f1 is 0\.8, and 0\.6667 is the mean of f1 of each"
    with pytest.raises(PluginError, match=message):
        metric("f1").per_response([1, 0, 1], [1, 1, 1])


SCRIPT = """
import datasets
import evaluate

class Own(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="d", citation="", inputs_description="",
            features=datasets.Features({{"predictions": datasets.Value("string")}}),
        )

    def _compute(self, predictions):
        lengths = [len(text) for text in predictions]
        return {result}
"""


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ("{'each': lengths, 'four': [1, 2, 3]}", {"each": [1.0, 2.0, 4.0]}),
        ("{'mean': sum(lengths) / len(lengths)}", {"mean": [1.0, 2.0, 4.0]}),
    ],
)
def test_a_script_of_ones_own(tmp_path: Path, result: str, expected: dict[str, list[float]]) -> None:
    """Three precisions of three texts are no number per text."""
    (tmp_path / "own.py").write_text(SCRIPT.format(result=result))
    assert metric(str(tmp_path / "own.py")).per_response(["a", "bb", "cccc"], None) == expected


def test_a_folder_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "my_metrics-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-metrics\nVersion: 1.0\n")
    (tmp_path / "lengths").mkdir()
    (tmp_path / "lengths" / "lengths.py").write_text(SCRIPT.format(result="{'total': sum(lengths)}"))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert metric("package:my-metrics/lengths").compute(["a", "bb"], None) == {"total": 3}
    assert list(problems("package:my-metrics/none")) == [
        f"metric: there is no file {tmp_path / 'none' / 'none.py'}"
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package:no-such-package/x", "which is not installed: pip install no-such-package"),
        ("package:pytest", "expected package:DISTRIBUTION/FOLDER"),
        ("./none.py", "there is no file none.py"),
    ],
)
def test_what_cannot_be_loaded(name: str, message: str) -> None:
    (problem,) = problems(name)
    assert message in problem


def test_a_package_that_a_metric_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text("import evaluate\nimport no_such_module.part\nfrom beside import x\n")
    (tmp_path / "beside.py").write_text("x = 1\n")
    assert [text.partition("imports ")[2] for text in problems(str(tmp_path / "own.py"))] == [
        "no_such_module, which is not installed: install what it belongs to, such as by pip install "
        "no_such_module"
    ]
    monkeypatch.setattr(
        "ppokit_metrics.finding.find_spec", lambda name: None if name in ("datasets", "rouge_score") else name
    )
    (problem,) = problems("rouge")
    assert problem == "metric: rouge needs datasets, rouge_score: pip install 'ppokit[metrics]'"


def test_a_metric_that_fails_is_told_with_the_references() -> None:
    message = r"'sacrebleu' failed on 2 responses with references such as \['a', 'b'\]: texts have 1 to 2 ref"
    with pytest.raises(PluginError, match=message):
        metric("sacrebleu").compute(["a", "b"], [["a", "b"], ["a"]])


def test_a_resource_that_a_metric_needs(tmp_path: Path) -> None:
    """NLTK's LookupError begins with a line of asterisks, as METEOR raises it without WordNet."""
    frame = "'\\n' + '*' * 70 + '\\n  Resource wordnet not found.\\n' + '*' * 70"
    (tmp_path / "own.py").write_text(SCRIPT.format(result=f"exec('raise LookupError(x)', {{'x': {frame}}})"))
    with pytest.raises(PluginError, match=r"failed on 1 responses: Resource wordnet not found\.$"):
        metric(str(tmp_path / "own.py")).compute(["a"], None)


def test_shares_of_a_whole_sets_number_by_hand() -> None:
    """F1 is 2/3; without the first 0, without the second 1, without the third 2/3: 5/9 in the mean."""
    f1 = metric("f1")
    labels, truth = [1, 0, 0], [1, 1, 0]
    shares = f1.shares(labels, truth, f1.compute(labels, truth))["f1"]
    assert shares == pytest.approx([2 / 3 + 2 * 5 / 9, 2 / 3 + 2 * (5 / 9 - 1), 2 / 3 + 2 * (5 / 9 - 2 / 3)])
    assert f1.shares([1], [1], f1.compute([1], [1])) == {}


def test_shares_of_a_mean_are_the_numbers_themselves() -> None:
    accuracy = metric("accuracy")
    labels, truth = ["a", "b", "c", "d"], ["a", "x", "c", "x"]
    shares = accuracy.shares(labels, truth, accuracy.compute(labels, truth))["accuracy"]
    assert shares == pytest.approx([1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize("text", ["x", "the cat sat on the mat"], ids=["all wrong", "all right"])
@pytest.mark.parametrize("name", ["sacrebleu", "chrf", "f1"])
def test_shares_of_what_no_response_changes(name: str, text: str) -> None:
    """Before training all may be wrong, and the gain from there is wanted; after it all may be right."""
    arguments = {"average": "macro"} if name == "f1" else {}
    own, texts, truth = Metric(name, None, arguments), [text] * 3, ["the cat sat on the mat"] * 3
    whole = own.compute(texts, truth)
    (key,) = {"score", "f1"} & set(whole)
    assert own.shares(texts, truth, whole)[key] == pytest.approx([whole[key]] * 3)


def test_the_mean_of_shares_is_the_whole_sets_number_and_sums_have_none() -> None:
    for name in ("sacrebleu", "chrf"):
        whole = metric(name).compute(PREDICTIONS, REFERENCES)
        shares = metric(name).shares(PREDICTIONS, REFERENCES, whole)
        assert sum(shares["score"]) / len(PREDICTIONS) == pytest.approx(whole["score"])
        assert not {"sys_len", "ref_len", "char_order", "beta"} & set(shares)
