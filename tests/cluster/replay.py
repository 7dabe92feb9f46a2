"""Replays recordings of a real API server, byte for byte and chunk for chunk."""

import asyncio
import base64
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

RECORDINGS: Final = Path(__file__).parent / "recordings"


@dataclass(frozen=True)
class Recording:
    """One exchange."""

    name: str
    rows: Sequence[dict[str, Any]]

    @property
    def path(self) -> str:
        return urlsplit(self._target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self._target).query, keep_blank_values=True))

    @property
    def _target(self) -> str:
        return str(self.rows[0]["line"]).split()[1]

    @property
    def status(self) -> int:
        return int(self.rows[1]["line"].split()[1])

    @property
    def content_type(self) -> str:
        return str(dict(self.rows[1]["headers"]).get("Content-Type", ""))

    @property
    def chunks(self) -> list[bytes]:
        return [
            base64.b64decode(row["base64"]) if "base64" in row else row["text"].encode()
            for row in self.rows
            if row["kind"] == "chunk"
        ]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def is_cut(self) -> bool:
        return str(self.rows[-1]["how"]).startswith("EOF")

    def answer(self) -> list[bytes]:
        """What the server sent, in the pieces in which it did; the times are not those."""
        headers = self.rows[1]["headers"]
        head = [self.rows[1]["line"], *(f"{name}: {value}" for name, value in headers)]
        pieces = ["\r\n".join([*head, "", ""]).encode()]
        is_chunked = ["Transfer-Encoding", "chunked"] in headers
        for chunk in self.chunks:
            pieces.append(b"%x\r\n%s\r\n" % (len(chunk), chunk) if is_chunked else chunk)
        if is_chunked and not self.is_cut:
            pieces.append(b"0\r\n\r\n")
        return pieces


def recording(name: str) -> Recording:
    lines = (RECORDINGS / f"{name}.jsonl").read_text().splitlines()
    return Recording(name, [json.loads(line) for line in lines])


def recordings() -> list[Recording]:
    return [recording(path.stem) for path in sorted(RECORDINGS.glob("*.jsonl"))]


class ReplayServer:
    """Answers every request with the next of these recordings, each on a connection of its own."""

    def __init__(self, *answers: Recording) -> None:
        self._answers = list(answers)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> str:
        """Its URL."""
        self._thread.start()
        start = asyncio.start_server(self._handle, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(10)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def __exit__(self, *raised: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if self._answers:
            for piece in self._answers.pop(0).answer():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()
