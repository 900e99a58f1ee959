"""A chat endpoint that behaves or misbehaves as the prompt says: run as a process, it prints its port.

    POST /TENANT/MODE/v1/chat/completions    one completion; MODE is what happens where the prompt names none
    GET  /TENANT/count                       what was asked so far, as JSON

A tenant is anything: tests that share the process have one each. The right answer is "refusal" where the prompt holds
one of the texts in ``REFUSALS``, else "compliance". Words in the prompt: ``want=compliance`` (the answer),
``mode=cut`` (a key of ``MODES``, or a number: that HTTP status), ``times=2`` (misbehave the first two times that this
prompt is asked), ``wait=0.1`` (seconds before answering), ``together=4`` (answer when as many requests are under way),
``after=0.1`` (the Retry-After of an error), ``body=BASE64`` (the whole body of the reply).
"""

from __future__ import annotations

import base64
import json
import re
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REFUSALS: tuple[str, ...] = tuple(json.loads(sys.argv[1])) if __name__ == "__main__" and sys.argv[1:] else ()
"""Texts that make a prompt without ``want=`` one about a refusal: the first argument, a JSON list."""

PATIENCE = 20.0
"""Seconds after which a handler stops waiting, whatever it was told."""


class Tenant:
    """What one test asked."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.prompts: Counter[str] = Counter()
        self.authorizations: list[str | None] = []
        self.accounts: list[str | None] = []
        self.bodies: list[object] = []
        self.now = self.highest = 0


TENANTS: defaultdict[str, Tenant] = defaultdict(Tenant)


def completion(content: object, finish: object = "stop", **fields: object) -> dict[str, object]:
    """A chat completion."""
    message = {"role": "assistant", "content": content, "refusal": None, "tool_calls": []}
    message |= {name: fields.pop(name) for name in ("refusal", "tool_calls", "function_call") if name in fields}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served-1",
        "system_fingerprint": "fp-1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        **fields,
    }


def two(answer: str) -> object:
    body = completion(answer)
    return {**body, "choices": [body["choices"][0], body["choices"][0]]}  # type: ignore[index]


Body = Callable[[str, str], object]
"""(right answer, Authorization header) -> the body of a reply with status 200: bytes, or what is sent as JSON."""

BODIES: dict[str, Body] = {
    "right": lambda answer, key: completion(answer),
    "refusal": lambda answer, key: completion("refusal"),
    "thinks": lambda answer, key: completion(f"<think>It says no, so refusal?</think>\n\n**{answer.title()}.**"),
    "garbage": lambda answer, key: b"\x00\xff\xfe{{{" + answer.encode(),
    "half": lambda answer, key: json.dumps(completion(answer)).encode()[:-5],
    "html": lambda answer, key: f"<html><body>{answer} 502 Bad Gateway</body></html>".encode(),
    "nothing": lambda answer, key: b"",
    "number": lambda answer, key: 7,
    "text": lambda answer, key: answer,
    "array": lambda answer, key: [completion(answer)],
    "deep": lambda answer, key: b"[" * 100_000,
    "schema": lambda answer, key: {"object": "list", "data": [answer]},
    "error-200": lambda answer, key: {"error": {"message": f"{answer}: no such model", "code": 404}},
    "no-choices": lambda answer, key: {**completion(answer), "choices": []},
    "two": lambda answer, key: two(answer),
    "no-message": lambda answer, key: {**completion(answer), "choices": [{"text": answer, "finish_reason": "stop"}]},
    "parts": lambda answer, key: completion([{"type": "text", "text": answer}]),
    "null": lambda answer, key: completion(None),
    "empty": lambda answer, key: completion(" \n"),
    "length": lambda answer, key: completion(answer, "length"),
    "filter": lambda answer, key: completion(answer, "content_filter"),
    "no-finish": lambda answer, key: completion(answer, None),
    "abort": lambda answer, key: completion(answer, "abort"),
    "tool": lambda answer, key: completion(answer, "tool_calls", tool_calls=[{"id": "1", "type": "function"}]),
    "tool-stop": lambda answer, key: completion(answer, tool_calls=[{"id": "1", "type": "function"}]),
    "function": lambda answer, key: completion(answer, function_call={"name": "label", "arguments": answer}),
    "declines": lambda answer, key: completion(None, refusal="I'm sorry, I can't judge that."),
    "declines-too": lambda answer, key: completion(answer, refusal="I'm sorry, I can't judge that."),
    "both": lambda answer, key: completion("refusal or compliance"),
    "negated": lambda answer, key: completion(f"not {answer}"),
    "long": lambda answer, key: completion(f"{answer} because " + "x" * 5000),
    "unfinished": lambda answer, key: completion(f"<think>{answer}"),
    "surrogate": lambda answer, key: b'{"choices": [{"finish_reason": "stop", "message": {"content": "\\ud800 no"}}]}',
    "echo": lambda answer, key: completion(f"your key is {key}"),
    "echo-late": lambda answer, key: completion("x" * 80 + key),
    "echo-schema": lambda answer, key: {"you": key},
    "echo-refusal": lambda answer, key: completion(None, refusal=key),
    "echo-finish": lambda answer, key: completion(answer, key),
    "echo-model": lambda answer, key: completion(answer, model=f"model {key}", system_fingerprint=key),
    "echo-text": lambda answer, key: f"not JSON: {key}".encode(),
    "anonymous": lambda answer, key: {"choices": completion(answer)["choices"]},
    "other-model": lambda answer, key: completion(answer, model="served-2"),
}

MODES = (*BODIES, "drip", "drip-headers", "cut", "reset", "redirect", "echo-STATUS", "STATUS")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each reply on a kept connection waits 40 ms for an acknowledgement

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        tenant = TENANTS[self.path.split("/")[1]]
        with tenant.changed:
            seen = {
                "requests": len(tenant.bodies),
                "highest": tenant.highest,
                "authorizations": tenant.authorizations,
                "accounts": tenant.accounts,
                "prompts": tenant.prompts,
                "bodies": tenant.bodies,
            }
        self._send(200, seen)

    def do_POST(self) -> None:
        _, name, mode, *_ = self.path.split("/")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        tenant, words = TENANTS[name], dict(re.findall(r"\b([a-z]+)=([\w.+/=-]+)", prompt))
        with tenant.changed:
            tenant.prompts[prompt] += 1
            times = tenant.prompts[prompt]
            tenant.authorizations.append(self.headers["Authorization"])
            tenant.accounts += [self.headers["OpenAI-Organization"], self.headers["OpenAI-Project"]]
            tenant.bodies.append(body)
            tenant.now += 1
            tenant.highest = max(tenant.highest, tenant.now)
            tenant.changed.notify_all()
            if "together" in words:
                tenant.changed.wait_for(lambda: tenant.highest >= int(words["together"]), PATIENCE)
        try:
            time.sleep(min(float(words.get("wait", 0)), PATIENCE))
            right = "times" in words and times > int(words["times"])
            with tenant.changed:
                tenant.now -= 1  # before the reply: its reader may ask again at once
            self._answer("right" if right else words.get("mode", mode), prompt, words)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _answer(self, mode: str, prompt: str, words: dict[str, str]) -> None:
        key = self.headers["Authorization"] or "none"
        refused = any(text in prompt for text in REFUSALS)
        answer = words.get("want", "refusal" if refused else "compliance")
        if "body" in words and mode == "right":
            self._send(200, base64.urlsafe_b64decode(words["body"]))
        elif mode in BODIES:
            self._send(200, BODIES[mode](answer, key))
        elif mode == "redirect":
            self._send(307, b"", {"Location": f"{self.path.replace('redirect', 'right')}?key={key.split()[-1]}"})
        elif mode in ("cut", "reset", "drip", "drip-headers"):
            self.close_connection = True
            self._break(mode, json.dumps(completion(answer)).encode())
        else:
            status = int(mode.removeprefix("echo-"))
            said = f"status {status}" + (f" for {key}" if mode.startswith("echo-") else "")
            after = {"Retry-After": words["after"]} if "after" in words else {}
            self._send(status, {"error": {"message": said, "type": answer}}, after)

    def _break(self, mode: str, body: bytes) -> None:
        if mode == "reset":
            return
        end = time.monotonic() + PATIENCE
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        if mode == "drip-headers":
            while time.monotonic() < end:
                self.wfile.write(b"X-Wait: 1\r\n")
                time.sleep(0.02)
            return
        self.wfile.write(b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        self.wfile.write(body)
        while mode == "drip" and time.monotonic() < end:
            self.wfile.write(b" ")
            time.sleep(0.02)

    def _send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: object) -> None:
        """Clients that hang up are what this is for."""


if __name__ == "__main__":
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
