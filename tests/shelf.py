"""A server of one file that is cut, altered or refused as it is told, and a data set that has it."""

import json
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from d4s.facts.sources import PublicDataset

ROWS = [{"case_id": number, "subject": f"Ada {number}", "note": "é\u2028"} for number in range(2000)]


CONTENT = json.dumps(ROWS).encode()


class Shelf:
    """Serves one file at /file.json, with ranges, and does what the test asks of it; remembers what was asked."""

    def __init__(self, server: HTTPServer) -> None:
        self.content, self.tag = CONTENT, '"one"'
        self.cut = 0
        self.ignores_ranges = False
        self.ranges: list[str | None] = []
        self.url = server.url_for("/file.json")
        server.expect_request("/file.json").respond_with_handler(self.answer)

    def answer(self, request: Request) -> Response:
        asked = request.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and not self.ignores_ranges else 0
        if request.headers.get("If-Range", self.tag) != self.tag:
            start = 0
        if start >= len(self.content):
            return Response(status=416)
        body = self.content[start:]
        headers = {"Content-Length": str(len(body))}
        if self.tag:
            headers["ETag"] = self.tag
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
        cut, self.cut = self.cut, 0
        return Response(iter([body[: cut or None]]), status=206 if start else 200, headers=headers)


@pytest.fixture
def shelf(httpserver: HTTPServer) -> Shelf:
    return Shelf(httpserver)


def source_of(url: str, **more: object) -> PublicDataset:
    return PublicDataset.model_validate(
        {
            "title": "Made up",
            "licence": "CC0",
            "home": "https://example.org",
            "files": [{"kind": "https", "file": "file.json", "url": url, **more}],
            "records": [{"to": "made.jsonl", "of": [{"file": "file.json", "shape": "json_list"}]}],
        }
    )


def records(data: Path) -> list[dict]:
    return [json.loads(line) for line in (data / "made" / "made.jsonl").read_text(encoding="utf-8").split("\n") if line]
