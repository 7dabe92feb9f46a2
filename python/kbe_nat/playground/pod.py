"""The example's container in a few lines: an HTTP server that answers `/info` as `simpleservice`
0.5.0 does.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

VERSION: Final = "0.5.0"


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/info":
            self.send_error(404)
            return
        info = {
            "host": self.headers.get("Host", ""),
            "version": VERSION,
            "from": self.client_address[0],
        }
        body = json.dumps(info).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a pod's log is of no interest here."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


def main() -> None:
    """Serve on all addresses at the port that is the first argument, and say "ready" first."""
    with _Server(("", int(sys.argv[1])), _Answers) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
