"""Recorded exchanges with a real API server: `recordings/NAME.jsonl`."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

JSON: Final = ["Content-Type", "application/json"]
RECORDINGS: Final = Path(__file__).parent / "recordings"


def lines(name: str) -> list[dict[str, Any]]:
    """The request, the response, its chunks and its end."""
    text = (RECORDINGS / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def chunks(name: str) -> list[bytes]:
    """The body as it came."""
    return [
        base64.b64decode(line["base64"]) if "base64" in line else line["text"].encode()
        for line in lines(name)
        if line["kind"] == "chunk"
    ]


def is_json(name: str) -> bool:
    """Whether the answer is whole, sound and in JSON."""
    parts = lines(name)
    is_sound = any(
        part["kind"] == "response" and " 200 " in part["line"] and JSON in part["headers"]
        for part in parts
    )
    return is_sound and not any(part["kind"] == "body-left-out" for part in parts)


def documents(name: str) -> list[dict[str, Any]]:
    """The values of a JSON body: one, or the events of a watch."""
    body = b"".join(chunks(name)).decode()
    return [json.loads(line) for line in body.splitlines() if line.strip()]


def objects(name: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON body, with version and kind; bookmarks and errors are none."""
    for document in documents(name):
        if "items" in document:
            kind = document["kind"].removesuffix("List")
            for item in document["items"]:
                yield {"apiVersion": document["apiVersion"], "kind": kind, **item}
        elif "type" not in document:
            yield document
        elif document["type"] not in ("BOOKMARK", "ERROR"):
            yield document["object"]
