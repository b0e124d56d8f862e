"""The reward `judge` against a local server that speaks as chat endpoints do."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from components import built
from ppokit.errors import RewardError
from ppokit.plugin import CheckContext, Rewards
from ppokit.rewards.scorer import Scorer
from ppokit_rewards.judge import Judge, JudgeOptions, check, fill
from ppokit_rewards.judge_answers import score, winner
from ppokit_rewards.service import ServiceError
from rollouts import make_rollout, single_process
from service import serve


def completion(text: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


def rewards(
    url: str, /, count: int = 4, keys: dict[str, Any] | None = None, rollout: Any = None, **options: Any
) -> Rewards:
    rollout = rollout or make_rollout([[1]] * count, [[2]] * count)
    provider = Judge(JudgeOptions(**{"url": f"{url}/v1", "model": "m", **options}), None)  # type: ignore[arg-type]
    reward = built("rewards", provider, "judge", where="reward 'judge'", **(keys or {}))
    scorer = Scorer([reward], single_process(), 0.9)
    try:
        return scorer.score(rollout)
    finally:
        scorer.close()


def text_of(body: Any) -> str:
    return str(body["messages"][0]["content"])


def test_scores_by_a_rubric_and_a_schema() -> None:
    def answer(body: Any, number: int) -> Any:
        digit = text_of(body).partition("Rate: response ")[2][0]
        return completion(json.dumps({"rationale": f"it is {digit}", "score": int(digit) + 1}))

    with serve(answer) as service:
        result = rewards(service.url, rubric="Rate: {response} to {prompt} in row {row}")
    assert result.scores.tolist() == [1, 2, 3, 4]
    assert json.loads(result.notes["judge/judge"][2])["rationale"] == "it is 2"
    body, _ = service.asked[0]
    assert body["model"] == "m"
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["score"] == {"type": "number", "minimum": 1, "maximum": 10}


def test_a_server_without_schemas_is_asked_without() -> None:
    def answer(body: Any, number: int) -> Any:
        if "response_format" in body:
            return (400, {}, b"unknown field response_format")
        return completion("It is fine.\nScore: 7/10")

    with serve(answer) as service:
        assert rewards(service.url, keys={"concurrency": 1}).scores.tolist() == [7] * 4
    assert len(service.asked) == 1 + 4, "the refusal is remembered"


def test_several_judges_and_swapped_pairs() -> None:
    by_model = {"a": 2, "b": 4}
    with serve(lambda body, number: completion(f"score: {by_model[body['model']]}")) as service:
        assert rewards(service.url, model=("a", "b")).scores.tolist() == [3] * 4

    def first(body: Any, number: int) -> Any:
        return completion('{"winner": "A"}')

    with serve(first) as service:
        assert rewards(service.url, against="row").scores.tolist() == [0.5] * 4, "a judge of positions"

    def own(body: Any, number: int) -> Any:
        a = text_of(body).index("response ")
        return completion(json.dumps({"winner": "A" if a < text_of(body).index("<response_b>") else "B"}))

    with serve(own) as service:
        assert rewards(service.url, against="row").scores.tolist() == [1] * 4
    assert len(service.asked) == 8


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (completion("I would rather not"), "the judge gave no score: 'I would rather not'"),
        (completion('{"score": 11}'), "the judge scored 11; expected 1 to 10"),
        (completion('{"score": NaN}'), "the judge scored nan; expected 1 to 10"),
        (completion('{"score": -1e999}'), "the judge scored -inf; expected 1 to 10"),
        (completion('{"score": 1' + "0" * 400 + "}"), "the judge scored inf; expected 1 to 10"),
        (completion('{"score": [7]}'), "the judge gave no score"),
        (completion('{"score": true}'), "the judge gave no score"),
        (completion({"score": 7}), "the judge answered nothing"),
        ({"choices": []}, "expected a chat completion"),
        ([], "expected a chat completion"),
        (completion(""), "the judge answered nothing"),
        ({"error": "overloaded"}, "expected a chat completion"),
        (
            {"choices": [{"message": {"content": "A score of 9 would be"}, "finish_reason": "length"}]},
            "was cut at max_tokens",
        ),
        (completion("<think>Score: 9?</think> hm"), "the judge gave no score: ' hm'"),
        (completion("Score: 4/5"), "the judge scored 4 of 5; expected a score up to 10"),
        (completion("Score: 8-9"), "the judge gave no score"),
    ],
)
def test_what_is_no_score_fails(answer: Any, reason: str) -> None:
    with serve(lambda body, number: answer) as service, pytest.raises(RewardError) as raised:
        rewards(service.url)
    assert reason in str(raised.value)


def test_sixteen_at_once() -> None:
    """Of 64: the server answers once sixteen wait for it."""
    together = threading.Barrier(16)

    def answer(body: Any, number: int) -> Any:
        together.wait(10)
        return completion("score: 5")

    with serve(answer) as service:
        result = rewards(service.url, count=64, keys={"concurrency": 16})
    assert result.scores.tolist() == [5] * 64
    assert service.most == 16


def test_answers_are_read() -> None:
    assert [
        score(text)
        for text in (
            "7",
            '{"score": "8"}',
            '{"score": "6/10"}',
            "**Score**: 3.5",
            "9/10",
            "9 / 10",
            "score 2, no, score: 4",
            "Score: 7/10",
            "The score is 5.",
            "Score: 7/10.",
            "Score - 3",
            "Score (1-10): 8",
            "Score (out of 10): 8",
            "score: 7,5",
            "score = .5",
            '{"score": 8} {"notes": {"score": 2}}',
            "Rating: 8",
            "[[7]]",
            "Final rating is [[6.5]]",
            "I'd score it a 7",
            "I would score this response an 8/10.",
            "My score for this response would be 4.",
            "Rating (1-10): 3",
        )
    ] == [7, 8, 6, 3.5, 9, 9, 4, 7, 5, 7, 3, 8, 8, 7.5, 0.5, 8, 8, 7, 6.5, 7, 8, 4, 3]
    assert score("85/100", 100) == 85
    assert score('First {"x": 1} then ```json\n{"score": 6, "rationale": "a {b}"}\n```') == 6
    winners = {
        "A": 1,
        '{"winner": "tie"}': 0.5,
        "Winner: B": 0,
        "winner: a tie": 0.5,
        "The winner is **B**": 0,
        "Winner: Response A": 1,
        "[[B]]": 0,
        '{"winner": "Response B."}': 0,
    }
    assert {text: winner(text) for text in winners} == winners
    for text in (
        *("", '{"score": null}', '{"score": "many"}', "Operating 5", "A rating from 1 to 10", "[7]"),
        *("I cannot score this 2-page answer", "score this response 1-10", "The 7 is wrong"),
    ):
        with pytest.raises(ServiceError):
            score(text)


@pytest.mark.parametrize("answer", ['{"a":' * 40_000, "7" * 200_000, "{" * 200_000, "score" * 40_000])
def test_an_answer_that_takes_long_to_read_is_read_from_its_end(answer: str) -> None:
    with pytest.raises(ServiceError):
        winner(answer)
    assert score(answer + " Score: 3") == 3


def test_a_row_without_a_response_to_compare_with_fails() -> None:
    rollout = replace(make_rollout([[1]] * 2, [[2]] * 2), rows=[{"row": "a"}, {"row": None}])
    with serve(lambda body, number: completion('{"winner": "tie"}')) as service:
        result = rewards(service.url, rollout=rollout, against="row")
    assert result.outcomes["judge"] == ("scored", "failed")
    assert result.reasons["judge"][1] == "ValueError: its row has nothing in 'row'"


def test_the_address_keeps_its_query() -> None:
    paths = []

    def answer(body: Any, number: int) -> Any:
        return completion("score: 5")

    with serve(answer) as service:
        service.on_path = paths.append
        rewards(service.url, url=f"{service.url}/v1/?api-version=1")
    assert set(paths) == {"/v1/chat/completions?api-version=1"}


def test_a_response_fills_no_field_of_the_template() -> None:
    assert fill("{prompt}|{response}|{x}", {"prompt": "{response}", "response": "{prompt}"}) == (
        "{response}|{prompt}|{x}"
    )


def test_mistakes(tmp_path) -> None:
    context = CheckContext(("prompt",))

    def problems(**options: Any) -> list[str]:
        return list(check(JudgeOptions(url="http://a", model="m", **options), context))

    assert problems() == []
    assert problems(rubric="missing.txt")[0].startswith("rubric: there is no file missing.txt")
    assert "has no {response}" in problems(rubric="Rate {prompt}")[0]
    assert "is no column" in problems(against="gold")[0]
    context = CheckContext(("prompt", "reference"))
    (problem,) = problems(rubric="Is {response} to {prompt} as good as {gold_text}?")
    assert problem.startswith("rubric: nothing fills {gold_text}; known are prompt, response, low, high and")
    assert "(prompt, reference)" in problem
    for template in ("{reference}, {low}", r"\\boxed{x} and \\{x\\}", "{{x}}", '{"score": 1}', "a{3}", "{}"):
        assert problems(rubric="{response} " + template) == [], template
    assert "nothing fills {response}" in problems(rubric="{a} {b} {response}", against="reference")[0]
    context = CheckContext(None)
    assert problems(rubric="{response} {gold_text}") == [], "nobody knows the columns yet"
    context = CheckContext(("prompt",))
    file = tmp_path / "rubric.txt"
    file.write_text("Rate {response}")
    assert problems(rubric=str(file)) == []
    file.write_bytes(b"Rate {response} \xe9")
    assert "cannot be read as UTF-8" in problems(rubric=str(file))[0]
    for wrong in ({"low": 2, "high": 1}, {"model": ""}, {"model": ["m", ""]}):
        with pytest.raises(ValidationError):
            JudgeOptions(**{"url": "http://a", "model": "m", **wrong})
