"""DNS for the cluster's domain, answered from Services and Endpoints."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.cluster import settings
from tests.cluster.api import Api
from tests.cluster.shell import ApiError

# An object by its path in the API; empty where there is none.
Get = Callable[[str], dict[str, Any]]

_A, _CNAME, _ANY = 1, 5, 255
_NO_ERROR, _SERVER_FAILED, _NO_SUCH_NAME = 0, 2, 3
_TTL_S = 5


@dataclass(frozen=True)
class Found:
    """What a name stands for: addresses (none: the name exists), or another name."""

    addresses: tuple[str, ...] = ()
    alias: str = ""


def look_up(name: str, get: Get) -> Found | None:
    """What a name of the cluster's domain stands for; None: no such name."""
    if not name.endswith(f".{settings.DOMAIN}"):
        return None
    match name.removesuffix(f".{settings.DOMAIN}").split("."):
        case ["svc"] | ["pod"] | [_, "svc"]:
            return Found()
        case [dashed, _, "pod"]:
            return Found((dashed.replace("-", "."),))
        case [service, space, "svc"]:
            return _service(space, service, get)
        case [host, service, space, "svc"]:
            return _host(space, service, host, get)
    return None


def _service(space: str, service: str, get: Get) -> Found | None:
    found = get(f"/api/v1/namespaces/{space}/services/{service}")
    if not found:
        return None
    spec = found["spec"]
    if spec["type"] == "ExternalName":
        return Found(alias=spec["externalName"])
    if spec["clusterIP"] != "None":
        return Found((spec["clusterIP"],))
    return Found(tuple(each["ip"] for each in _endpoints(space, service, get)))


def _host(space: str, service: str, host: str, get: Get) -> Found | None:
    addresses = tuple(
        each["ip"]
        for each in _endpoints(space, service, get)
        if host in (each.get("hostname"), each["ip"].replace(".", "-"))
    )
    return Found(addresses) if addresses else None


def _endpoints(space: str, service: str, get: Get) -> list[dict[str, Any]]:
    subsets = get(f"/api/v1/namespaces/{space}/endpoints/{service}").get("subsets") or []
    return [address for subset in subsets for address in subset.get("addresses") or []]


def answer(query: bytes, get: Get) -> bytes:
    """The packet that answers a query of one question (RFC 1035, section 4)."""
    at, labels = 12, []
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("latin1").lower())
        at += 1 + length
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    question = query[12 : at + 5]
    code = _NO_ERROR
    records: list[tuple[int, bytes]] = []
    try:
        found = look_up(".".join(labels), get)
    except (OSError, ApiError) as error:
        print("dns:", ".".join(labels), error, flush=True)
        found, code = None, _SERVER_FAILED
    else:
        code = _NO_ERROR if found else _NO_SUCH_NAME
    if found and found.alias:
        records = [(_CNAME, encoded(found.alias))]
    elif found and kind in (_A, _ANY):
        records = [(_A, socket.inet_aton(address)) for address in found.addresses]
    # Authoritative, no recursion; each record names the question by its offset.
    head = query[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(records), 0, 0)
    body = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", type_, 1, _TTL_S, len(data)) + data
        for type_, data in records
    )
    return head + question + body


def encoded(name: str) -> bytes:
    """A name as labels."""
    parts = [part.encode() for part in name.split(".") if part]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


class Remembering:
    """Objects from the API; while that is away, as they were last seen.

    A cluster's DNS server watches and keeps serving what it knows, and so does this.
    """

    def __init__(self, get: Get) -> None:
        self._get = get
        self._seen: dict[str, dict[str, Any]] = {}

    def __call__(self, path: str) -> dict[str, Any]:
        try:
            found = self._get(path)
        except OSError:
            if path not in self._seen:
                raise
            return self._seen[path]
        self._seen[path] = found
        return found


def serve() -> None:
    """For ever, on the node's address."""
    get = Remembering(Api().get)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((settings.NODE_IP, 53))
        while True:
            query, sender = sock.recvfrom(4096)
            try:
                sock.sendto(answer(query, get), sender)
            except (OSError, IndexError, struct.error) as error:
                print("dns: no answer:", repr(error), flush=True)
