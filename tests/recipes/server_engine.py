"""A model behind HTTP, and a rollout engine that asks it: no model of this process takes part.

The server takes a policy's adapter only at every other version, so that it is a step behind at times. After
two tokens of the policy's own a tool speaks, and every third response fails.
"""

from __future__ import annotations

import json
import math
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppokit.models.pretrained import peft_warnings
from ppokit.plugin import Component, Generation, GenerationRequest, Options, PolicyHandle

TOOL = (5, 7)
OWN_BEFORE_TOOL = 2
FAILS = 3


class Server:
    """Answers `POST /generate`."""

    def __init__(self, model: str) -> None:
        self.path = model
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self.version = 0
        self.requests: list[dict[str, Any]] = []

    def generate(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.requests.append(asked)
        if asked["version"] % 2 == 0 and asked["version"] != self.version:
            base = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)
            with peft_warnings():
                self.model = PeftModel.from_pretrained(base, asked["adapter"]).eval()
            self.version = asked["version"]
        responses = [
            self.respond(prompt, seed, asked["sampling"])
            for p, prompt in enumerate(asked["prompt_ids"])
            for seed in asked["seeds"][p * asked["n"] : (p + 1) * asked["n"]]
        ]
        for index in range(FAILS - 1, len(responses), FAILS):
            responses[index] = {"error": "overloaded"}
        return {"version": self.version, "responses": responses}

    @torch.inference_mode()
    def respond(self, prompt: list[int], seed: int, sampling: dict[str, Any]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        ids: list[int] = []
        logprobs: list[float | None] = []
        own: list[bool] = []
        while len(ids) < sampling["max_new_tokens"]:
            if len(ids) == OWN_BEFORE_TOOL:
                ids += TOOL
                logprobs += [None] * len(TOOL)
                own += [False] * len(TOOL)
            logits = self.model(torch.tensor([prompt + ids])).logits[0, -1].float()
            scaled = (logits / sampling["temperature"]).log_softmax(-1)
            token = int(torch.multinomial(scaled.exp(), 1, generator=generator))
            ids.append(token)
            logprobs.append(float(scaled[token]))
            own.append(True)
            if token == self.tokenizer.eos_token_id:
                break
        finished = ids[-1] == self.tokenizer.eos_token_id
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return {"ids": ids, "logprobs": logprobs, "own": own, "finished": finished, "text": text}


@contextmanager
def serving(model: str) -> Iterator[tuple[Server, str]]:
    """A server on a free port of this machine, and its address."""
    server = Server(model)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps(server.generate(asked)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


class ServerOptions(Options):
    url: str
    foreign_logprob: float | None = None
    """What stands for the log-probabilities of the tool's tokens; NaN if not given."""


class ServerEngine:
    closed = 0

    def __init__(self, options: ServerOptions, context: object) -> None:
        self.options = options
        self.folder = TemporaryDirectory()

    def generate(self, policy: PolicyHandle, request: GenerationRequest) -> Generation:
        adapter = Path(self.folder.name) / policy.adapter_hash
        if not adapter.exists():
            policy.save_adapter(adapter)
        assert request.seeds is not None
        answer = self.post(
            {
                "adapter": str(adapter),
                "version": policy.version,
                "prompt_ids": request.prompts.prompt_ids,
                "n": request.n,
                "seeds": request.seeds.per_response(),
                "sampling": request.sampling.model_dump(),
            }
        )
        responses = answer["responses"]
        unknown = math.nan if self.options.foreign_logprob is None else self.options.foreign_logprob
        return Generation(
            response_ids=[r.get("ids", []) for r in responses],
            sampler_logprobs=[
                [unknown if number is None else number for number in r.get("logprobs", [])] for r in responses
            ],
            outcomes=[
                "failed" if "error" in r else "finished" if r["finished"] else "truncated" for r in responses
            ],
            texts=[r.get("error") or r["text"] for r in responses],
            loss_mask=[r.get("own", []) for r in responses],
            policy_version=[answer["version"]] * len(responses),
        )

    def post(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{self.options.url}/generate", data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def close(self) -> None:
        type(self).closed += 1
        self.folder.cleanup()


component = Component("server", ServerEngine, options=ServerOptions, runs_on="main")
