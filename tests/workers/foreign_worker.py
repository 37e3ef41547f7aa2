"""A stand-in for the original workers: a process that speaks their wire, well or badly.

Run as a file, with the standard library and Pillow only: it shares no code with what is tested. Its
answer is what stands between `SAY[` and `]` in the last turn, then the size and the average colour
of each picture. GET /seen tells what it was asked, and how many requests there were at once.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import io
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

GENERIC = "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
EXCEEDS = "Exceeds max token length. Please start a new conversation, thanks."
CONVERSATION = {
    "name": "one_line",
    "system_template": "{system_message}",
    "system_message": "Be kind.",
    "roles": ["HUMAN", "BOT"],
    "messages": [],
    "offset": 0,
    "sep_style": 1,
    "sep": "\n",
    "sep2": None,
    "stop_str": "\nHUMAN",
    "stop_token_ids": None,
}


class Worker:
    """What the handlers share."""

    def __init__(self, flags: argparse.Namespace) -> None:
        self.flags = flags
        self.lock = threading.Lock()
        self.semaphore = threading.Semaphore(flags.limit)
        self.payloads: list[dict[str, Any]] = []
        self.paths: list[str | None] = []
        self.parallel = self.most_parallel = self.broken_off = 0

    def enter(self, payload: dict[str, Any], path: str | None) -> None:
        with self.lock:
            self.payloads.append(payload)
            self.paths.append(path)
            self.parallel += 1
            self.most_parallel = max(self.most_parallel, self.parallel)

    def leave(self) -> None:
        with self.lock:
            self.parallel -= 1


def describe(image: str) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(image)))
    average = picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return f" {picture.format} {picture.mode} {picture.size} {average}"


def said(text: str) -> str:
    return re.findall(r"SAY\[(.*?)\]", text, re.DOTALL)[-1]


def pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


def llava(payload: dict[str, Any]) -> tuple[str, str]:
    """Prefix of the texts, and the answer; fails as LLaVA's worker does."""
    prompt, images = payload["prompt"], payload.get("images") or []
    if images and len(images) != prompt.count("<image>"):
        raise ValueError("Number of images does not match number of <image> tokens in prompt")
    assert isinstance(prompt, str) and isinstance(payload["stop"], str)
    return prompt, said(prompt) + "".join(map(describe, images))


def internvl(payload: dict[str, Any]) -> tuple[str, str]:
    prompt = payload["prompt"]
    assert prompt[0]["role"] == "system" and isinstance(prompt[0]["content"], str)
    for name in ("max_input_tiles", "temperature", "top_p", "max_new_tokens", "repetition_penalty"):
        assert isinstance(payload[name], int | float), name
    images = [image for row in prompt[1:] for image in row.get("image", [])]
    return "", said(prompt[-1]["content"]) + "".join(map(describe, images))


def fastchat(payload: dict[str, Any]) -> tuple[str, str]:
    assert payload["echo"] is False and isinstance(payload["stop"], list)
    return "", said(payload["prompt"])


ANSWERS = {"llava": llava, "internvl": internvl, "fastchat": fastchat}


class Handler(BaseHTTPRequestHandler):
    """The routes of a worker."""

    protocol_version = "HTTP/1.1"
    worker: Worker

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        worker = self.worker
        self.tell(
            {
                "payloads": worker.payloads,
                "paths": worker.paths,
                "most_parallel": worker.most_parallel,
                "parallel": worker.parallel,
                "broken_off": worker.broken_off,
            }
        )

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        payload = json.loads(raw) if raw else {}
        flags = self.worker.flags
        match self.path:
            case "/worker_get_status":
                length = flags.queue_length or self.worker.parallel
                status = {"model_names": flags.model.split(","), "speed": 1}
                cell = {"X-Heliograph-Cell": flags.cell} if flags.cell else {}
                self.tell({**status, "queue_length": length}, **cell)
            case "/worker_get_conv_template" if flags.kind == "fastchat":
                self.tell({"conv": CONVERSATION})
            case "/model_details" if flags.kind == "fastchat":
                self.tell({"context_length": 100})
            case "/count_token" if flags.kind == "fastchat":
                self.tell({"count": len(payload["prompt"].split()), "error_code": 0})
            case "/worker_generate_stream":
                self.generate(payload)
            case _:
                self.send_error(404)

    def tell(self, body: Any, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def generate(self, payload: dict[str, Any]) -> None:
        self.is_counted = True
        self.worker.enter(payload, self.headers.get("X-Heliograph-Path"))
        try:
            with self.worker.semaphore:
                time.sleep(self.worker.flags.delay)
                getattr(self, f"be_{self.worker.flags.behave}")(payload)
        except OSError:
            self.worker.broken_off += 1
            self.close_connection = True
        finally:
            self.leave()

    # What is sent

    def start(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def frame(self, text: str, code: int = 0, **more: Any) -> None:
        time.sleep(self.worker.flags.pace)
        self.send(json.dumps({"text": text, "error_code": code, **more}).encode() + b"\0")

    def leave(self) -> None:
        if self.is_counted:
            self.is_counted = False
            self.worker.leave()

    def end(self) -> None:
        self.leave()  # before the client knows, who may ask again at once
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def raw(self, data: bytes) -> None:
        self.start()
        self.send(data)
        self.end()

    # How it behaves

    def be_well(self, payload: dict[str, Any], times: int = 1) -> None:
        self.start()
        kind = self.worker.flags.kind
        try:
            text, answer = ANSWERS[kind](payload)
        except Exception:
            self.frame(GENERIC, 1)
            self.end()
            return
        tokens = pieces(answer)[: payload["max_new_tokens"]]
        told = {"finish_reason": None} if kind == "fastchat" else {}
        for count, token in enumerate(tokens):
            text += token
            if kind == "fastchat":
                told["usage"] = {"prompt_tokens": 7, "completion_tokens": count}
            for _ in range(times):
                self.frame(text, **told)
        if kind == "fastchat":
            cut = len(tokens) == payload["max_new_tokens"]
            told["usage"] = {"prompt_tokens": 7, "completion_tokens": len(tokens)}
            told["finish_reason"] = "length" if cut else "stop"
        self.frame(text, **told)
        self.end()

    def be_repeating(self, payload: dict[str, Any]) -> None:
        self.be_well(payload, times=3)

    def be_endless(self, payload: dict[str, Any]) -> None:
        self.start()
        text = "".join(ANSWERS[self.worker.flags.kind](payload))
        while True:
            self.frame(text)

    def be_stripping(self, payload: dict[str, Any]) -> None:
        """Repeats the prompt as it came out of a tokenizer."""
        self.start()
        prompt, answer = llava(payload)
        text = " " + re.sub(r"\s+", " ", prompt.replace("<image>", "").replace("</s>", "")).strip()
        for token in pieces(" " + answer):
            text += token
            self.frame(text)
        self.end()

    def be_partial(self, payload: dict[str, Any]) -> None:
        """Sends the stop string piece by piece, and takes it back once it is whole."""
        self.start()
        text, answer = ANSWERS[self.worker.flags.kind](payload)
        for token in [*pieces(answer), "\n", "<", "/", "s"]:
            text += token
            self.frame(text)
        self.frame(text[: -len("\n</s")])
        self.end()

    def be_takeback(self, payload: dict[str, Any]) -> None:
        self.start()
        text, answer = ANSWERS[self.worker.flags.kind](payload)
        self.frame(text + answer + " and more")
        self.frame(text + answer[:3])
        self.end()

    def be_cut(self, payload: dict[str, Any]) -> None:
        """Closes the connection after three tokens."""
        self.start()
        text, answer = ANSWERS[self.worker.flags.kind](payload)
        for token in pieces(answer)[:3]:
            text += token
            self.frame(text)
        self.close_connection = True

    def be_unfinished(self, payload: dict[str, Any]) -> None:
        self.raw(json.dumps({"text": "never ended", "error_code": 0}).encode())

    def be_empty(self, payload: dict[str, Any]) -> None:
        self.start()
        self.end()

    def be_gzipped(self, payload: dict[str, Any]) -> None:
        """Packs a megabyte of an answer, though it was asked not to."""
        self.send_response(200)
        self.send_header("Content-Encoding", "gzip")
        data = gzip.compress(json.dumps({"text": "a" * 2**20, "error_code": 0}).encode() + b"\0")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def be_wordless(self, payload: dict[str, Any]) -> None:
        self.raw(b'{"error_code": 1}\0')

    def be_html(self, payload: dict[str, Any]) -> None:
        self.raw(b"<html><body>502 Bad Gateway</body></html>\0")

    def be_undecodable(self, payload: dict[str, Any]) -> None:
        self.raw(b'{"text": "\xff\xfe", "error_code": 0}\0')

    def be_mistyped(self, payload: dict[str, Any]) -> None:
        self.raw(b'{"text": ["a"], "error_code": "0"}\0')

    def be_huge(self, payload: dict[str, Any]) -> None:
        self.start()
        for _ in range(80):
            self.send(b"a" * 2**16)
        self.end()

    def be_failing(self, payload: dict[str, Any]) -> None:
        self.start()
        self.frame(GENERIC, 1)
        self.end()

    def be_networkless(self, payload: dict[str, Any]) -> None:
        self.start()
        self.frame(GENERIC, 3)
        self.end()

    def be_exceeding(self, payload: dict[str, Any]) -> None:
        self.start()
        self.frame(ANSWERS[self.worker.flags.kind](payload)[0] + EXCEEDS)
        self.end()

    def be_redirecting(self, payload: dict[str, Any]) -> None:
        self.send_response(307)
        self.send_header("Location", "http://169.254.169.254/latest/meta-data")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def be_broken(self, payload: dict[str, Any]) -> None:
        self.send_error(500)

    def be_silent(self, payload: dict[str, Any]) -> None:
        time.sleep(60)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=ANSWERS, default="llava")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="llava-v1.5-7b")
    parser.add_argument("--behave", default="well")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--limit", type=int, default=5)
    parser.add_argument("--queue-length", type=int, default=0)
    parser.add_argument("--cell", default="")
    flags = parser.parse_args()
    Handler.worker = Worker(flags)
    ThreadingHTTPServer.daemon_threads = True
    ThreadingHTTPServer.request_queue_size = 64
    with ThreadingHTTPServer(("127.0.0.1", flags.port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
