"""Every built-in component passes the conformance kit, with the options that it cannot do without."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForSequenceClassification, RobertaModel

from ppokit.testing import find, run_checks
from service import Service, serve
from small_models import save_tiny

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
NAMES = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]["ppokit"]
ORDINARY = {
    "advantages.gae",
    "losses.ppo_clip",
    "rollout.transformers",
    "rewards.kl_penalty",
    "rewards.pattern",
    "evaluators.rewards",
    "observers.tracker",
}
"""Those of every day; `make thorough` runs the others."""

ROWS = {"evaluators.lm": {"answer": "I would thank the clerk."}}
"""What the data set holds for those that read it and have no example."""

RATINGS = """prompt,response,rating
Tell me what you would do.,Yes.,8
Tell me what you would do.,Bad,1
Q: Yes.,No,2
Q: No,Yes,3
"""
SCRIPT = """
import datasets
import evaluate

class Words(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="words", citation="", inputs_description="",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions):
        return {"words": float(sum(len(p.split()) for p in predictions))}
"""


def brief(responses: list[str]) -> list[float]:
    return [1.0 / (1 + len(text)) for text in responses]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """What `http` and `judge` ask: scores are lengths, and the judge always says 5."""

    def answer(body: Any, number: int) -> Any:
        if "messages" in body:
            return {"choices": [{"message": {"content": "score: 5"}}]}
        return {"scores": [float(len(text)) for text in body["responses"]]}

    with serve(answer) as served:
        yield served


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, service: Service) -> dict[str, dict[str, Any]]:
    """Of the components whose defaults do not do."""
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "ratings.csv").write_text(RATINGS)
    (folder / "words.py").write_text(SCRIPT)
    model = save_tiny(
        folder / "model",
        LlamaForSequenceClassification,
        {"eos_token": "</s>"},
        num_labels=1,
        max_position_embeddings=4096,
        eos_token_id=4,
    )
    encoder = save_tiny(
        folder / "encoder", RobertaModel, {"pad_token": "[PAD]"}, max_position_embeddings=512, pad_token_id=0
    )
    ratings = {"path": str(folder / "ratings.csv")}
    return {
        "evaluators.canary": ratings,
        "evaluators.lm": {"reference": "answer"},
        "evaluators.metric": {"metric": str(folder / "words.py")},
        "observers.tracker": {"log_with": "tensorboard", "logging_dir": str(folder / "tracker")},
        "rewards.banned": {"words": ["Bad"]},
        "rewards.http": {"url": f"{service.url}/scores"},
        "rewards.human_csv": ratings,
        "rewards.judge": {"url": service.url, "model": "judge"},
        "rewards.python": {"function": f"{__name__}:brief"},
        "rewards.reward_model": {"model": str(model)},
        "rewards.similarity": {"encoder": str(encoder), "reference": "answer"},
        "rollout.recorded": ratings,
    }


@pytest.mark.parametrize(
    "name", [name if name in ORDINARY else pytest.param(name, marks=pytest.mark.thorough) for name in NAMES]
)
def test_it_conforms(
    name: str,
    options: dict[str, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)  # what other tests write where they stand is not the component's
    (subject,) = find(name, options=options.get(name), row=ROWS.get(name))
    report = run_checks(subject)
    assert json.dumps({result.check: result.detail for result in report.having("failed")}, indent=1) == "{}"
