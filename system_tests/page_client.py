"""What the page does, without a browser: it asks for news and takes them apart."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATIENCE_SECONDS = 900.0  # of an emulated board on a busy machine; none asserts a time


@dataclass(frozen=True)
class News:
    facts: dict[str, Any]
    parts: list[bytes]


@dataclass(frozen=True)
class PageClient:
    """A viewer of a page.

    Parameters
    ----------
    port : int
        On this machine's loopback.
    token : str
        Empty where none is asked for.
    """

    port: int
    token: str = ""

    def get(self, path: str) -> bytes:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return bytes(answer.read())

    def code(self, path: str) -> int:
        """The answer's code, whatever it is."""
        try:
            self.get(path)
        except urllib.error.HTTPError as error:
            return error.code
        return 200

    def about(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/about")))

    def news(self) -> News:
        """The newest there is, whole."""
        content = self.get("/news")
        size = int.from_bytes(content[:4], "little")
        facts, rest = json.loads(content[4 : 4 + size]), content[4 + size :]
        parts = []
        for length in facts["parts"]:
            parts.append(rest[:length])
            rest = rest[length:]
        assert rest == b""
        return News(facts, parts)

    def wait_for(self, holds: Callable[[News], object], what: str) -> News:
        """Ask until something holds; a page that does not answer yet is asked again."""
        end = time.monotonic() + PATIENCE_SECONDS
        said: object = "nothing"
        while time.monotonic() < end:
            try:
                news = self.news()
                if holds(news):
                    return news
                said = {name: news.facts[name] for name in ("source", "problem", "explained")}
            except (OSError, urllib.error.URLError) as error:
                said = error
            time.sleep(0.5)
        raise AssertionError(f"waited in vain for {what}; last: {said}")


def is_explained(news: News) -> bool:
    """Whether there is a frame with a prediction, a map and their milliseconds."""
    seen = news.facts["explained"]
    return bool(
        seen and seen["classes"] and seen["method"] and seen["forward_latency_ms"] > 0 and seen["map_latency_ms"] > 0
    )
