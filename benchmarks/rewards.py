"""What scoring costs beside a step: free providers, and a judge's calls at once.

    python benchmarks/rewards.py                    the packaged SmolLM2-135M-Instruct
    python benchmarks/rewards.py --model CHECKPOINT
    python benchmarks/rewards.py --judge            the judge's calls alone, without a model

The step is that of step.py. Its own rollout is then scored by three free providers, which wait for nothing:
what it takes is the core's, and the last number its share of that step, of the same run. The judge is a local
server that answers after half a second; 64 responses with 16 calls at once are 2 s of waiting.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from step import SMOLLM2, recipe_of, save_reward_model

if TYPE_CHECKING:
    from ppokit.plugin.types import Rollout
    from ppokit.rewards.scorer import Scorer

FREE = [
    {"use": "length", "target": 40},
    {"use": "repetition"},
    {"use": "pattern", "pattern": r"\bthe\b", "mode": "count"},
]
REPEATS, RESPONSES, AT_ONCE, JUDGE_S = 30, 64, 16, 0.5


def scorer_of(rewards: list[dict[str, Any]]) -> Scorer:
    """Scores with these rewards of a recipe."""
    import torch
    from accelerate import Accelerator

    from ppokit.config.reader import RecipeReader
    from ppokit.config.registry import PluginRegistry
    from ppokit.config.yaml_file import plain
    from ppokit.distributed import Processes
    from ppokit.plugin import BuildContext
    from ppokit.rewards.scorer import Scorer

    context = BuildContext(torch.device("cpu"), torch.float32, 0)
    selected = RecipeReader(plain({"rewards": rewards}), PluginRegistry()).rewards()
    return Scorer([reward.build(context) for reward in selected], Processes(Accelerator(cpu=True)), 0.0)


def seconds_of(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def free_seconds(rollout: Rollout) -> float:
    """Median seconds in which three free providers score a rollout."""
    scorer = scorer_of(FREE)
    try:
        scorer.score(rollout)
        return statistics.median(seconds_of(lambda: scorer.score(rollout)) for _ in range(REPEATS))
    finally:
        scorer.close()


def step_of(checkpoint: str, work: Path) -> tuple[float, Rollout]:
    """Seconds of step.py's second step, and its rollout."""
    from ppokit import PPOTrainer, Recipe

    with PPOTrainer(Recipe.from_dict(recipe_of(checkpoint, 2, work))) as trainer:
        for prompts in trainer.prompts:
            rollout = trainer.collect(prompts)
            rewards = trainer.score(rollout)
            advantages = trainer.estimate(rollout, rewards)
            stats = trainer.update(rollout, advantages)
            metrics = trainer.report(rollout, rewards, advantages, stats)
    return metrics["time/step_s"], rollout


@contextmanager
def judge() -> Iterator[str]:
    """The address of a chat endpoint that answers after half a second."""
    content = json.dumps(
        {"choices": [{"message": {"role": "assistant", "content": '{"score": 5}'}}]}
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(JUDGE_S)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # five by default, and more are refused

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def judge_seconds() -> float:
    """Seconds in which a judge scores 64 responses, with 16 calls at once, once a run's client is there."""
    import torch

    from ppokit.plugin.types import Rollout

    ids = torch.ones(RESPONSES, 1, dtype=torch.long)
    rollout = Rollout(
        ids=[f"{index}" for index in range(RESPONSES)],
        group_ids=torch.arange(RESPONSES),
        prompts=["How are you?"] * RESPONSES,
        responses=[f"Fine, {index}." for index in range(RESPONSES)],
        rows=[{"prompt": "How are you?"}] * RESPONSES,
        prompt_ids=[[1]] * RESPONSES,
        response_ids=ids,
        response_mask=ids.bool(),
        loss_mask=ids.bool(),
        outcomes=["finished"] * RESPONSES,
        policy_version=torch.zeros(RESPONSES, dtype=torch.long),
        sampler_logprobs=torch.zeros(RESPONSES, 1),
    )
    with judge() as url:
        reward = {"use": "judge", "url": url, "model": "m", "concurrency": AT_ONCE, "timeout": 60}
        scorer = scorer_of([reward])
        try:
            scorer.score(rollout.select([0]))
            return seconds_of(lambda: scorer.score(rollout))
        finally:
            scorer.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=SMOLLM2, help="a checkpoint's folder, a hub id or package:...")
    parser.add_argument("--judge", action="store_true", help="the judge's calls alone")
    arguments = parser.parse_args()
    waiting = judge_seconds()
    print(f"judge: {RESPONSES} responses, {AT_ONCE} calls of {JUDGE_S} s at once: {waiting:.2f} s")
    if arguments.judge:
        return
    from ppokit.models.loading import find_model

    checkpoint = find_model(arguments.model).where
    with tempfile.TemporaryDirectory() as folder:
        save_reward_model(checkpoint, Path(folder) / "reward_model")
        step_s, rollout = step_of(checkpoint, Path(folder))
    free = free_seconds(rollout)
    print(
        f"three free providers: {len(rollout)} responses {1000 * free:.1f} ms, step {step_s:.2f} s: "
        f"{100 * free / step_s:.2f} %"
    )


if __name__ == "__main__":
    main()
