"""As much of an API server as an election needs, over real HTTP on loopback."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class ApiServer:
    """Keeps one lease; may refuse everything, or let callers wait. ``patches``: all that came."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.refuses = 0
        self.hangs = threading.Event()
        self.requests: list[str] = []
        self.patches: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append(self.command)
                if outer.hangs.is_set():
                    time.sleep(20)
                code, found = outer.handle(self.command, body)
                data = json.dumps(found).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_PATCH = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def handle(self, method: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuses:
            return self.refuses, {"kind": "Status", "code": self.refuses}
        if method == "PATCH":
            self.patches.append(json.loads(body))
            return 200, {}
        if method == "GET" and self.lease is None:
            return 404, {"kind": "Status", "code": 404}
        if method != "GET":
            written = json.loads(body)
            was = self.lease["metadata"]["resourceVersion"] if self.lease else None
            if method == "PUT" and written["metadata"].get("resourceVersion") != was:
                return 409, {"kind": "Status", "code": 409}
            written["metadata"]["resourceVersion"] = str(int(was or 0) + 1)
            self.lease = written
        return 200, self.lease or {}
