"""Answers `/v1/completions` with log-probabilities of the prompt, as `vllm serve` does; or with a fault.

A program of its own, which computes with plain transformers and PEFT and imports nothing of tosslm:
`python inference_server.py serve FOLDER [--fault FAULT] --dtype D --lora-modules JSON... --uds PATH`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

FAULTS = ("none", "ignores", "swaps", "shifts", "dies", "stumbles", "breaks", "hangs")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fault", default="none", choices=FAULTS)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--uds", required=True)
    parser.add_argument("--max-model-len", type=int, required=True)
    parser.add_argument("--lora-modules", nargs="+", type=json.loads, required=True)
    known, _ = parser.parse_known_args()
    return known


class Model:
    """The base with its adapters, and how many questions it was asked."""

    def __init__(self, told: argparse.Namespace) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        self.fault, self.longest, self.asked, self.lock = told.fault, told.max_model_len, 0, threading.Lock()
        base = AutoModelForCausalLM.from_pretrained(told.folder, dtype=getattr(torch, told.dtype))
        first, *rest = told.lora_modules
        self.model: Any = PeftModel.from_pretrained(base, first["path"], adapter_name=first["name"]).eval()
        for one in rest:
            self.model.load_adapter(one["path"], one["name"])
        self.names = [one["name"] for one in told.lora_modules]

    def logprobs(self, adapter: str, prompt: list[int]) -> list[dict[str, Any] | None]:
        """Of each token after those before it; of the first, which nothing predicts, None."""
        import torch

        if self.fault == "swaps":
            adapter = next(name for name in self.names if name != adapter)
        self.model.set_adapter(adapter)
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            if self.fault == "ignores":
                with self.model.disable_adapter():
                    logits = self.model(input_ids=ids).logits[0]
            else:
                logits = self.model(input_ids=ids).logits[0]
        found = logits.float().log_softmax(-1)
        late = 1 if self.fault == "shifts" else 0
        told = [found[place - 1 + late][token].item() for place, token in enumerate(prompt[1:], start=1)]
        return [None, *({str(token): {"logprob": value}} for token, value in zip(prompt[1:], told, strict=True))]

    def answer(self, question: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON."""
        with self.lock:
            self.asked += 1
            if self.fault == "dies" and self.asked > 60:  # after the check, which asks 48 times
                print("out of luck", flush=True)
                os._exit(3)
            if self.fault == "stumbles" and self.asked == 5:
                return 500, {"error": "try again"}
            prompt = question["prompt"]
            if question["model"] not in self.names or len(prompt) + question["max_tokens"] > self.longest:
                return 400, {"error": "no such model, or too long"}
            assert question["prompt_logprobs"] == 0
            return 200, {"choices": [{"prompt_logprobs": self.logprobs(question["model"], prompt)}]}


class Handler(BaseHTTPRequestHandler):
    """What is asked of the server."""

    model: Model

    def do_GET(self) -> None:
        self.reply(200, {"version": "of-a-test"} if self.path == "/version" else {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.reply(401, {"error": "who are you"})
        elif self.path != "/v1/completions":
            self.reply(404, {})
        else:
            self.reply(*self.model.answer(json.loads(body)))

    def reply(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Listening(ThreadingMixIn, UnixStreamServer):
    """HTTP at a Unix socket, a thread a request."""

    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    told = arguments()
    if told.fault == "breaks":
        print("this machine has no accelerator", flush=True)
        sys.exit(4)
    if told.fault == "hangs":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("hanging", flush=True)
        time.sleep(600)
    Handler.model = Model(told)
    Listening(told.uds, Handler).serve_forever()


if __name__ == "__main__":
    main()
