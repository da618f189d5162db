"""A server that speaks as much of S3 as a journal needs, in this process, for tests.

Objects are created only if they are not there (``If-None-Match: *``), unless it ``overwrites``, as
some servers do that speak S3. It signs nothing and checks no signature.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

_MOST_KEYS = 3  # of a listing: so that several pages are usual


class S3Server:
    """``objects``: what there is, by bucket and key, and may be changed."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.overwrites = False
        self.down = False
        self.forgets = False  # stores what it is given, and then says that something went wrong
        self.denies = False
        self.locked = False  # what is there cannot be written again
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("_H", (_Handler,), {"s3": self}))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._http.server_port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    s3: S3Server
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        data = self._body()
        with self.s3.lock:
            if self._refused():
                return
            created = self.headers.get("If-None-Match") == "*" and not self.s3.overwrites
            if created and self._key in self.s3.objects:
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            if self.s3.locked and self._key in self.s3.objects:
                self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
                return
            self.s3.objects[self._key] = data
            if self.s3.forgets:
                self.s3.forgets = False
                self._answer(500)
                return
        self._answer(200, headers={"ETag": '"0"'})

    def do_GET(self) -> None:
        if self._refused():
            return
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query)
        elif self._key in self.s3.objects:
            headers = {"ETag": '"0"', "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
            self._answer(200, self.s3.objects[self._key], headers)
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_POST(self) -> None:
        """Delete several objects."""
        bucket = self._key.rstrip("/")
        keys = [each.text for each in ElementTree.fromstring(self._body()).iter() if _is_key(each)]
        for key in keys:
            self.s3.objects.pop(f"{bucket}/{key}", None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self._answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def _list(self, query: dict[str, list[str]]) -> None:
        bucket = self._key.rstrip("/")
        after = query.get("continuation-token", [""])[0]
        prefix = query.get("prefix", [""])[0]
        keys = sorted(each.removeprefix(f"{bucket}/") for each in self.s3.objects)
        keys = [key for key in keys if key.startswith(prefix) and key > after]
        some, more = keys[:_MOST_KEYS], len(keys) > _MOST_KEYS
        contents = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>0</ETag><Size>{len(self.s3.objects[f'{bucket}/{key}'])}</Size></Contents>"
            for key in some
        )
        token = f"<NextContinuationToken>{some[-1]}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult>{contents}{token}<IsTruncated>{str(more).lower()}</IsTruncated>"
        self._answer(200, f"{text}</ListBucketResult>".encode())

    @property
    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refused(self) -> bool:
        if self.s3.down:
            self._answer(503)
        elif self.s3.denies:
            self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return self.s3.down or self.s3.denies

    def _answer(self, code: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _is_key(element: ElementTree.Element) -> bool:
    return element.tag.rpartition("}")[2] == "Key"
