"""A few lines of API client with the admin's certificate: the tool needs no more."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Collection
from typing import Any

from tests.cluster import settings
from tests.cluster.shell import ApiError

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


class Api:
    """One connection; for the use of one thread."""

    def __init__(self, timeout_s: float = 10) -> None:
        self._timeout_s = timeout_s
        self._context = ssl.create_default_context(cafile=str(settings.PKI / "ca.crt"))
        self._context.load_cert_chain(settings.PKI / "admin.crt", settings.PKI / "admin.key")
        self._connection: http.client.HTTPSConnection | None = None

    def get(self, path: str) -> dict[str, Any]:
        """An object or a list; empty where there is none."""
        status, raw = self._call("GET", path, None, "")
        if status == 404:
            return {}
        return self._checked("GET", path, status, raw)

    def ready(self) -> bool:
        """Whether the API server says that it is."""
        status, _ = self._call("GET", "/readyz", None, "")
        return status == 200

    def post(self, path: str, body: object) -> None:
        """Create something; it may be there already."""
        self._send("POST", path, body, "application/json", spared=(409,))

    def patch(self, path: str, body: object, kind: str) -> bool:
        """Change something; whether it is there."""
        return self._send("PATCH", path, body, kind, spared=(404,)) != 404

    def delete(self, path: str, body: object = None) -> None:
        """Remove something; it may be gone already."""
        self._send("DELETE", path, body, "application/json", spared=(404,))

    def _send(self, verb: str, path: str, body: object, kind: str, spared: Collection[int]) -> int:
        status, raw = self._call(verb, path, body, kind)
        if status not in spared:
            self._checked(verb, path, status, raw)
        return status

    def _call(self, verb: str, path: str, body: object, kind: str) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body)
        headers = {} if data is None else {"Content-Type": kind}
        for attempt in (1, 2):  # a connection that was kept may have been closed meanwhile
            try:
                if self._connection is None:
                    self._connection = http.client.HTTPSConnection(
                        settings.NODE_IP,
                        settings.API_PORT,
                        context=self._context,
                        timeout=self._timeout_s,
                    )
                self._connection.request(verb, path, data, headers)
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection = None
                if attempt == 2:
                    raise ConnectionError(f"{verb} {path}: {error!r}") from error
        raise AssertionError("both attempts return or raise")

    @staticmethod
    def _checked(verb: str, path: str, status: int, raw: bytes) -> dict[str, Any]:
        if status >= 300:
            raise ApiError(f"{verb} {path}: {status} {raw[:300].decode(errors='replace')}")
        answer: dict[str, Any] = json.loads(raw)
        return answer
