"""What one run of a use leaves: one JSON file, from which every table is made."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow.parquet as pq
import yaml
from judging import Judge, OwnJudge, bleu_counts, judge_of, of_its_own, rows_of, trivial
from rows import read_lines

from ppokit.plugin.ngram import ngrams
from ppokit.report.verdict import is_gain
from uses import ITS_OWN, RECIPES, REPOSITORY, Use

RESULTS = Path(__file__).resolve().parent / "results"
SHOWN = 3
"""Held-out prompts, from the first, whose answers are kept."""


def digest(files: Iterable[Path], keys: Iterable[str] = ()) -> str:
    """SHA-256 over what a result depends on.

    Args:
        files: their names and bytes, wherever they lie.
        keys: of the recipe, KEY=VALUE; of a path its name.
    """
    known = hashlib.sha256()
    for name, content in sorted((path.name, hashlib.sha256(path.read_bytes()).digest()) for path in files):
        known.update(f"{name}\0".encode() + content)
    for key, _, value in (own.partition("=") for own in keys):
        known.update(f"{key}={Path(value).name}\0".encode())
    return known.hexdigest()[:16]


def inputs(use: Use) -> list[Path]:
    """What decides a use's run: its recipe, the code that it names, its data, and the texts of all uses."""
    recipe = use.folder / "recipe.yaml"
    data = [path for path in use.folder.iterdir() if path.suffix in (".jsonl", ".csv", ".json")]
    modules = re.findall(r"\b(recipes\.uses\.[\w.]+):", recipe.read_text(encoding="utf-8"))
    named = {REPOSITORY / f"{module.replace('.', '/')}.py" for module in modules}
    return [recipe, RECIPES / "texts.txt", *{*use.folder.glob("*.py"), *named}, *data]


def result_file(folder: Path, data: str, use: str, seed: int) -> Path:
    return folder / data / f"{use}-{seed}.json"


def dumped(result: dict[str, Any]) -> str:
    """The content of its file, a list of numbers on one line."""
    text = json.dumps(result, ensure_ascii=False, indent=1)
    return re.sub(r"\[\n[-\d.,e\s]*\]", lambda numbers: " ".join(numbers[0].split()), text) + "\n"


def read_results(folder: Path, data: str) -> dict[str, list[dict[str, Any]]]:
    """Of each use its runs' results, by seed: those of one recipe and data, of which there are most."""
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted((folder / data).glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        results[result["use"]].append(result)
    of_one = {}
    for use, own in results.items():
        (most, _), *_ = Counter(result["digest"] for result in own).most_common(1)
        of_one[use] = sorted((r for r in own if r["digest"] == most), key=lambda result: result["seed"])
    return of_one


def result_of(
    use: Use, out: Path, *, data: str, seed: int, known: str, version: str, threads: int, seconds: float
) -> dict[str, Any]:
    """The result of the run in a folder.

    Args:
        data: own or real.
        known: the digest of its inputs.
        version: of ppokit, as it was when the run began.
        threads: that the run had.
        seconds: that it took, from the command to its end.
    """
    lines = read_lines(out / "metrics.jsonl")
    first, last = lines[0], lines[-1]
    before, after = (_answers(out, line["step"]) for line in (first, last))
    about = json.loads((out / "provenance.json").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    judge = judge_of(use, recipe)
    held_out, train = (rows_of(section) for section in (recipe["evaluation"]["prompts"], recipe["prompts"]))
    references = _references(before, recipe)
    judged = {
        "name": use.judge,
        "before": _by_prompt(before, use.judge),
        "after": _by_prompt(after, use.judge),
    }
    if isinstance(judge, Judge) and judge.is_bleu:
        judged["counts"] = [bleu_counts(judge, rows) for rows in (before, after)]
    return {
        "use": use.name,
        "data": data,
        "seed": seed,
        "digest": known,
        "files": digest(inputs(use)),
        "ppokit": version,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {
            **{name: about["machine"][name] for name in ("cpu", "cores", "dtype")},
            "threads": threads,
            "torch": about["versions"]["torch"],
        },
        "steps": last["step"],
        "minutes": round(seconds / 60, 2),
        "peak_gb": round(max(line.get("memory/peak_gb", 0.0) for line in lines), 2),
        "judge": judged,
        "beside": {number: _beside(before, after, judge, number) for number, _ in use.beside},
        "trivial": trivial(judge, held_out, train),
        "words": _words(before, after, references),
        "distinct_2": _distinct_2(before, after, references),
        "finished": [_share_finished(rows) for rows in (before, after)],
        "evaluation": {"before": _evaluation(first), "after": _evaluation(last)},
        "reward": [_round(line["reward/mean"]) for line in lines if "reward/mean" in line],
        "answers": _shown(before, after, use.answers) if data == "own" else [],  # real texts stay out
    }


def _answers(out: Path, step: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "evaluation" / f"step-{step:06d}.parquet").to_pylist()
    return rows


def _by_prompt(rows: Sequence[dict[str, Any]], judge: str) -> list[float]:
    """The mean of each held-out prompt's answers, in the order of the prompts.

    Raises:
        ValueError: the evaluator recorded no such number, or not of every prompt.
    """
    means = _means(rows, judge)
    if not means or list(means) != list(range(len(means))):
        raise ValueError(f"the evaluation has no {judge} of every held-out prompt")
    return list(means.values())


def _means(rows: Sequence[dict[str, Any]], number: str) -> dict[int, float]:
    """By held-out prompt, in their order: the mean of its answers that have the number."""
    evaluator, _, name = number.partition("/")
    groups: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        if row["evaluator"] == evaluator and row.get(name) is not None:
            groups[row["group"]].append(row[name])
    return _rounded({group: math.fsum(own) / len(own) for group, own in sorted(groups.items())})


def _beside(
    before: Sequence[dict[str, Any]],
    after: Sequence[dict[str, Any]],
    judge: Judge | OwnJudge | None,
    number: str,
) -> dict[str, list[float]]:
    """Another number that a use is judged by, of the prompts that have it.

    Raises:
        ValueError: other prompts have it after than before.
    """
    if number == ITS_OWN:
        assert isinstance(judge, Judge)
        first, last = (_rounded(of_its_own(judge, rows)) for rows in (before, after))
    else:
        first, last = _means(before, number), _means(after, number)
    if first.keys() != last.keys():
        raise ValueError(f"{number} is of {len(first)} prompts before and of {len(last)} others after")
    return {"before": list(first.values()), "after": list(last.values())}


def _answered(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["evaluator"] in ("greedy", "sampled")]


def _words(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], references: Sequence[Sequence[str]]
) -> dict[str, float | None]:
    """Mean number of words of the responses, and of the references."""
    first, last = (
        _round(mean(len(row["response"].split()) for row in _answered(own))) for own in (before, after)
    )
    expected = _round(mean(mean(len(text.split()) for text in own) for own in references))
    return {"before": first, "after": last, "reference": expected}


def _distinct_2(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Before and after; `reference` is what the references have per one before.

    Of a prompt with several references there are as many as it has responses; one that several prompts share
    counts once.
    """
    first, last = ([row["response"] for row in _answered(rows)] for rows in (before, after))
    per_prompt = max(1, len(first) // len(references))
    texts = {text: None for own in references for text in own[:per_prompt]}
    compared = variety(first, texts)
    return {**variety(first, last), "reference": _round(compared["after"] / compared["before"])}


def _references(rows: Sequence[dict[str, Any]], recipe: Mapping[str, Any]) -> list[list[str]]:
    """The references of each held-out prompt that has some.

    Where none has they are the posts that the reward and the judge learned from, half each.
    """
    answers = {row["group"]: json.loads(row["row"]).get("reference") for row in _answered(rows)}
    references = [[own] if isinstance(own, str) else own for own in answers.values() if own]
    if references:
        return references
    (path,) = (own["posts"] for own in recipe["evaluation"]["evaluators"] if "posts" in own)
    with (REPOSITORY / path).open(encoding="utf-8", newline="") as file:
        return [[row["post"]] for row in csv.DictReader(file)]


def variety(before: Iterable[str], after: Iterable[str]) -> dict[str, float]:
    """Distinct-2 of as many pairs of neighbouring words before and after; NaN where a side has none.

    The share of pairs that are different falls with their number alone. So of the side that has more, it is
    what a draw of as many as the other side has would give, without replacement: of n of N pairs the
    expected number of different ones is

        sum over different pairs of 1 - C(N - count, n) / C(N, n)

    Hurlbert 1971, Ecology 52(4), eq. 5 (rarefaction); distinct-2: see `ppokit.plugin.ngram`.
    """
    counts = [
        Counter(pair for text in texts for pair in ngrams(text.lower().split(), 2))
        for texts in (before, after)
    ]
    n = min(own.total() for own in counts)
    if n == 0:
        return {"before": math.nan, "after": math.nan}
    shares = []
    for own in counts:
        total = own.total()
        drawn = math.fsum(1 - math.comb(total - count, n) / math.comb(total, n) for count in own.values())
        shares.append(_round(drawn / n))
    return dict(zip(("before", "after"), shares, strict=True))


def _share_finished(rows: Sequence[dict[str, Any]]) -> float:
    """Of the responses, which the limit of tokens did not cut off."""
    return _round(mean(row["outcome"] == "finished" for row in _answered(rows)))


def _evaluation(line: dict[str, Any]) -> dict[str, float]:
    kept = {key.removeprefix("eval/"): number for key, number in line.items() if key.startswith("eval/")}
    return {key: _round(number) for key, number in kept.items() if not is_gain(key, kept)}


def _shown(before: list[dict[str, Any]], after: list[dict[str, Any]], evaluator: str) -> list[dict[str, str]]:
    """The first answers to the first prompts, which nobody chose."""
    firsts: list[dict[int, dict[str, Any]]] = []
    for rows in (before, after):
        own: dict[int, dict[str, Any]] = {}
        for row in rows:
            if row["evaluator"] == evaluator:
                own.setdefault(row["group"], row)
        firsts.append(own)
    return [
        {
            "prompt": firsts[0][group]["prompt"],
            "before": firsts[0][group]["response"],
            "after": firsts[1][group]["response"],
        }
        for group in sorted(firsts[0])[:SHOWN]
    ]


def _rounded(numbers: dict[int, float]) -> dict[int, float]:
    return {group: _round(number) for group, number in numbers.items()}


def _round(number: float) -> float:
    return float(f"{number:.6g}")
