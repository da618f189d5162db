"""A small Kubernetes API over real HTTP on loopback, for the commands that talk to a cluster.

It keeps objects, answers lists, watches, logs and exec (which runs the command here), and can be
told to refuse, to cut off and to go away. It has no controllers: tests write what those would.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import ssl
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

Object = dict[str, Any]
Key = tuple[str, str, str]  # plural, namespace, name

KINDS = {
    "federatedruns": "FederatedRun", "pods": "Pod", "events": "Event", "jobs": "Job",
    "configmaps": "ConfigMap", "persistentvolumeclaims": "PersistentVolumeClaim",
    "deviceclasses": "DeviceClass", "resourceslices": "ResourceSlice",
    "resourceclaims": "ResourceClaim",
}  # fmt: skip


def status(code: int, message: str, **details: Any) -> Object:
    """A refusal as the API server writes it."""
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": message, "details": details,
    }  # fmt: skip


class FakeKubernetes:
    """``refusals``: what to answer instead, looked at in order; None lets the request through."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.history: list[tuple[int, str, Object]] = []
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.lines_told = 0  # of logs
        self.refusals: list[Callable[[str, str], tuple[int, Object | str] | None]] = []
        self.groups: list[Object] = []  # of APIs, beside those that every cluster has
        self.logs: dict[str, list[tuple[str, str]]] = {}  # of a pod: (time, line)
        self.mount: Path | None = None  # what reader pods see
        self.cut_after: list[int] = []  # of the next exec connections: bytes until they break
        self.on_create: Callable[[Object], None] = lambda body: None
        self.version = 0
        self.changed = threading.Condition(threading.RLock())
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self._server: ThreadingHTTPServer | None = None
        self._open: set[Any] = set()

    # ------------------------------------------------------------- the server

    def start(self) -> None:
        fake = self

        class Handler(_Handler):
            kubernetes = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self.tls:
            self._server.socket = self.tls.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away, all connections with it."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(2)
        with self.changed:
            self.changed.notify_all()

    @property
    def up(self) -> bool:
        return self._server is not None

    def kubeconfig(self, path: Path, token: str = "secret", **cluster: Any) -> Path:
        scheme = "https" if self.tls else "http"
        named = {"server": f"{scheme}://127.0.0.1:{self.port}", **cluster}
        context = {"cluster": "fake", "user": "me"}
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "ml",
                    "clusters": [{"name": "fake", "cluster": named}],
                    "users": [{"name": "me", "user": {"token": token}}],
                    "contexts": [
                        {"name": "ml", "context": {**context, "namespace": "ml"}},
                        {"name": "lab", "context": {**context, "namespace": "lab"}},
                    ],
                }
            )
        )
        return path

    # ------------------------------------------------------------- objects

    def put(self, plural: str, body: Object) -> Object:
        """Create or replace an object; whoever watches hears of it."""
        with self.changed:
            metadata = body["metadata"]
            if "name" not in metadata:
                metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
            metadata.setdefault("namespace", "ml")
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata.setdefault("generation", 1)
            metadata.setdefault(
                "creationTimestamp", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            )
            key = (plural, metadata["namespace"], metadata["name"])
            known = key in self.objects
            self.version += 1
            metadata["resourceVersion"] = str(self.version)
            self.objects[key] = body
            self._tell("MODIFIED" if known else "ADDED", body)
        return body

    def change(self, plural: str, name: str, space: str = "ml", **parts: Any) -> Object:
        """Replace parts of an object, such as its status."""
        with self.changed:
            body = json.loads(json.dumps(self.objects[plural, space, name])) | parts
            return self.put(plural, body)

    def remove(self, plural: str, name: str, space: str = "ml") -> None:
        with self.changed:
            body = self.objects.pop((plural, space, name))
            self.version += 1
            body = json.loads(json.dumps(body))
            body["metadata"]["resourceVersion"] = str(self.version)
            self._tell("DELETED", body)

    def _tell(self, event: str, body: Object) -> None:
        self.history.append((self.version, event, json.loads(json.dumps(body))))
        self.changed.notify_all()

    def of(self, plural: str, space: str | None = None) -> list[Object]:
        with self.changed:
            return [
                body
                for (kind, where, _), body in self.objects.items()
                if kind == plural and space in (None, where)
            ]

    def asked(self, method: str, part: str) -> int:
        """How many requests there were of a method with this in the path."""
        return sum(how == method and part in path for how, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    kubernetes: FakeKubernetes
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.kubernetes._open.add(self.connection)

    def finish(self) -> None:
        self.kubernetes._open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PATCH(self) -> None:
        self._serve("PATCH")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        fake = self.kubernetes
        fake.requests.append((method, self.path))
        fake.headers.append({name.lower(): value for name, value in self.headers.items()})
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        for refusal in fake.refusals:
            if answer := refusal(method, self.path):
                self._answer(*answer)
                return
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        if url.path == "/apis":
            self._answer(200, {"groups": fake.groups})
            return
        words = url.path.strip("/").split("/")
        words = words[2:] if words[0] == "api" else words[3:]
        space = words[1] if words[0] == "namespaces" else None
        words = words[2:] if space else words
        plural, name, sub = [*words, "", ""][:3]
        if sub == "log":
            self._log(name, query)
        elif sub == "exec":
            self._exec(parse_qs(url.query)["command"])
        elif method == "GET" and query.get("watch"):
            self._watch(plural, space or "", query)
        else:
            with fake.changed:
                answer = self._rest(method, plural, space, name, query, body)
            self._answer(*answer)

    def _rest(
        self, method: str, plural: str, space: str | None, name: str, query: Object, body: Object
    ) -> tuple[int, Object]:
        fake = self.kubernetes
        key = (plural, space or "", name)
        if method == "GET" and not name:
            found = [each for each in fake.of(plural, space) if _selected(each, query)]
            return 200, {"metadata": {"resourceVersion": str(fake.version)}, "items": found}
        if method == "POST":
            if (plural, space, body["metadata"].get("name")) in fake.objects:
                named = body["metadata"]["name"]
                return 409, status(409, f'{plural} "{named}" already exists', name=named)
            assert body["metadata"]["namespace"] == space
            assert body["kind"] == KINDS[plural]
            fake.put(plural, body)
            fake.on_create(body)
            return 201, body
        if key not in fake.objects:
            return 404, status(404, f'{plural} "{name}" not found', name=name, kind=plural)
        if method == "PATCH":
            wanted = body.get("metadata", {}).get("resourceVersion")
            if wanted not in (None, fake.objects[key]["metadata"]["resourceVersion"]):
                return 409, status(409, f'{plural} "{name}": the object has been modified')
            merged = _merged(fake.objects[key], body)
            return 200, fake.put(plural, merged)
        if method == "DELETE":
            found = fake.objects[key]
            fake.remove(plural, name, space or "")
            return 200, found
        return 200, fake.objects[key]

    def _answer(self, code: int, body: Object | str) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    # ------------------------------------------------------------- what streams

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _watch(self, plural: str, space: str, query: Object) -> None:
        fake = self.kubernetes
        self._begin()
        version = int(query["resourceVersion"])
        ends = time.monotonic() + min(float(query["timeoutSeconds"]), 60)
        while fake.up and time.monotonic() < ends:
            with fake.changed:
                news = [
                    (at, event, body)
                    for at, event, body in fake.history
                    if at > version
                    and space in ("", body["metadata"]["namespace"])
                    and body["kind"] == KINDS[plural]
                    and _selected(body, query)
                ]
                if not news:
                    fake.changed.wait(0.05)
            for at, event, body in news:
                version = at
                self._chunk(json.dumps({"type": event, "object": body}).encode() + b"\n")
        if fake.up:
            self._chunk(b"")

    def _log(self, pod: str, query: Object) -> None:
        fake = self.kubernetes
        follow, stamped = query.get("follow"), query.get("timestamps")
        since = query.get("sinceTime", "")[:19]
        first = max(len(fake.logs[pod]) - int(query["tailLines"]), 0) if "tailLines" in query else 0
        self._begin()
        while fake.up:
            lines = fake.logs[pod][first:]
            first += len(lines)
            for when, line in lines:
                if when[:19] >= since:
                    self._chunk(f"{when} {line}\n".encode() if stamped else f"{line}\n".encode())
                    fake.lines_told += 1
            state = fake.objects["pods", "ml", pod]["status"]["phase"]
            if not follow or (state in ("Succeeded", "Failed") and first == len(fake.logs[pod])):
                break
            time.sleep(0.02)
        if fake.up:
            self._chunk(b"")

    def _exec(self, command: list[str]) -> None:
        fake = self.kubernetes
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        for name, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            (
                "Sec-WebSocket-Accept",
                base64.b64encode(hashlib.sha1(key.encode()).digest()).decode(),
            ),
            ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        here = [word.replace("/run-folder", str(fake.mount)) for word in command]
        done = subprocess.run(here, capture_output=True, check=False)
        limit = fake.cut_after.pop(0) if fake.cut_after else None
        for at in range(0, len(done.stdout), 1000):
            if limit is not None and at >= limit:
                self.connection.shutdown(2)
                return
            self._frame(b"\x01" + done.stdout[at : at + 1000])
        if done.stderr:
            self._frame(b"\x02" + done.stderr)
        good = done.returncode == 0
        ending = {"status": "Success" if good else "Failure", "message": f"exit {done.returncode}"}
        self._frame(b"\x03" + json.dumps(ending).encode())
        self._frame(struct.pack(">H", 1000), opcode=8)

    def _frame(self, data: bytes, opcode: int = 2) -> None:
        size = len(data)
        head = bytes([0x80 | opcode]) + (
            bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size)
        )
        self.wfile.write(head + data)
        self.wfile.flush()


def _selected(body: Object, query: Object) -> bool:
    labels = body["metadata"].get("labels") or {}
    for words in filter(None, query.get("labelSelector", "").split(",")):
        name, _, value = words.partition("=")
        if labels.get(name) != value:
            return False
    for words in filter(None, query.get("fieldSelector", "").split(",")):
        name, _, value = words.partition("=")
        here: Any = body
        for part in name.split("."):
            here = here.get(part) or {}
        if here != value:
            return False
    return True


def _merged(body: Object, change: Object) -> Object:
    found = dict(body)
    for name, value in change.items():
        if isinstance(value, dict):
            found[name] = _merged(found.get(name) or {}, value)
        elif value is None:
            found.pop(name, None)
        else:
            found[name] = value
    return found
