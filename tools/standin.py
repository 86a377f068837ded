"""A stand-in for a language model behind an OpenAI-compatible server on this machine: no model, only sentence frames.

Its answers depend on the request alone. Some are bad on purpose, so that the way of a bad answer is seen too.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "sentence-frames-standin"
BAD_EVERY = 12
PHRASES = (
    "Think of this: {}",
    "As people tell it, {}",
    "In the story, {}",
    "Picture the scene: {}",
    "It is said that {}",
    "One day {}",
    "Here is what happened: {}",
    "Most people know how it goes: {}",
)
STATEMENTS = tuple(
    f"{opening} {{}} {{tail}}?"
    for opening in (
        "Do you agree that",
        "Is it likely that",
        "Would you say that",
        "Can one expect that",
        "Is it right to say that",
        "Does it make sense that",
        "Do most people think that",
        "Should we believe that",
    )
)
CHOICES = tuple(
    f"{opening} {{}}"
    for opening in (
        "What comes next here:",
        "Find the best ending:",
        "How does this go on:",
        "Which ending suits this:",
        "Select what follows:",
        "Finish the thought:",
        "What completes this:",
        "Say which fits best:",
    )
)
DISTRACTORS = (
    "count the clouds", "paint a fence", "learn a dance", "fix the clock", "buy new shoes", "water the plants",
    "write a poem", "close the window", "count the stars", "feed the ducks", "fold the map", "tune the piano",
)  # fmt: skip


def completion(request: dict[str, Any]) -> dict[str, Any]:
    """The body that answers a request."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).digest()
    content = json.dumps(_content(request, digest))
    asked = sum(len(message["content"]) for message in request["messages"])
    return {
        "id": f"standin-{digest.hex()[:12]}",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": asked // 4, "completion_tokens": len(content) // 4, "total_tokens": (asked + len(content)) // 4},
    }


def _content(request: dict[str, Any], digest: bytes) -> dict[str, Any]:
    kind = request["response_format"]["json_schema"]["name"]
    facts = json.loads(request["messages"][1]["content"])
    frames = {"wordings": PHRASES, "statements": STATEMENTS, "choices": CHOICES}[kind]
    start = digest[0] % len(frames)
    texts = [frames[(start + place) % len(frames)].replace("{}", facts["told_as"], 1) for place in range(6)]
    if digest[1] % BAD_EVERY == 0:
        texts[digest[2] % 6] = texts[digest[2] % 6].replace("{}", "something")
    elif digest[1] % BAD_EVERY == 1:
        texts[digest[2] % 6] = f"As the answer is {facts['answer']}, {texts[digest[2] % 6]}"
    found: dict[str, Any] = {"question": texts[0], "paraphrases": texts[1:3], "wordings": texts[3:]}
    if kind == "choices":
        place = digest[3] % len(DISTRACTORS)
        found["distractors"] = [DISTRACTORS[place], DISTRACTORS[(place + 1 + digest[4] % (len(DISTRACTORS) - 1)) % len(DISTRACTORS)]]
    return found


Answering = Callable[[dict[str, Any]], dict[str, Any]]


@contextmanager
def serving(answer: Answering = completion) -> Iterator[str]:
    """The base URL of a server on the loopback interface that answers requests so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

        def do_POST(self) -> None:
            self._send(answer(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))

        def _send(self, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()
