"""gRPC channels and servers, their options and their mTLS credentials, in one place."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# gRPC's C core writes to stderr at import unless told otherwise, and a person reads that stream.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

from fedkube.core.errors import Environment, Rejected
from fedkube.wire.identity import Identity, Role, parse
from fedkube.wire.limits import MESSAGE_BYTES

SESSION = "/fedkube.v1.Exchange/Session"
WATCH = "/fedkube.v1.Control/Watch"
STOP = "/fedkube.v1.Control/Stop"
BAN = "/fedkube.v1.Control/Ban"

# A peer that is stopped, or cut off without a word, is given up after 10 + 10 seconds.
_KEEPALIVE: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # a minute by default, whatever keepalive says
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_COMMON: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.http2.lookahead_bytes", 16 * 1024 * 1024),
    *_KEEPALIVE,
]
_SERVER: list[tuple[str, int]] = [
    *_COMMON,
    # Without this, two servers would share a port and each get half of the workers.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
]
# Connections are to the address that was given, never by way of a proxy of the environment.
_CLIENT: list[tuple[str, int]] = [*_COMMON, ("grpc.enable_http_proxy", 0)]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are, and whose certificates we trust; all PEM."""

    ca: bytes
    certificate: bytes
    key: bytes = field(repr=False)

    @classmethod
    def from_folder(cls, folder: Path) -> Credentials:
        """From ``ca.pem``, ``cert.pem`` and ``key.pem``, as a mounted Secret has them."""
        parts = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        return cls(*(path.read_bytes() for path in parts))

    @classmethod
    def from_descriptor(cls, descriptor: int) -> Credentials:
        """From a pipe, so that a throw-away key is in no file."""
        with os.fdopen(descriptor, "rb") as pipe:
            parts = json.loads(pipe.read())
        return cls(*(part.encode() for part in parts))

    def to_bytes(self) -> bytes:
        """What ``from_descriptor`` reads."""
        parts = (self.ca, self.certificate, self.key)
        return json.dumps([part.decode() for part in parts]).encode()

    def server(self) -> Any:
        """For a server that admits nobody without a certificate of the same CA."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], root_certificates=self.ca, require_client_auth=True
        )

    def client(self) -> Any:
        """For a client that proves who it is."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


def connect(address: str, credentials: Credentials) -> Any:
    """A channel to a server; ``address`` is HOST:PORT."""
    return grpc.aio.secure_channel(address, credentials.client(), options=_CLIENT)


def serve(listen: str, credentials: Credentials, handlers: Sequence[Any]) -> tuple[Any, int]:
    """A server that is bound and not yet started, and its port; Environment if it cannot bind."""
    server = grpc.aio.server(options=_SERVER)
    server.add_generic_rpc_handlers(tuple(handlers))
    try:
        port = server.add_secure_port(listen, credentials.server())
    except RuntimeError:
        port = 0
    if not port:
        raise Environment(
            f"cannot listen on {listen}: the port is in use, or the address is not this machine's",
            hint="leave --port out to take a free one",
        )
    return server, port


def peer_identity(context: Any, run: str, *roles: Role) -> Identity:
    """Who is calling; Rejected unless it is of this run and has one of the roles."""
    names = context.auth_context().get("x509_subject_alternative_name", [])
    identity = parse(name.decode() for name in names)
    if identity.run != run:
        raise Rejected(f"the certificate is of run {identity.run}, and this is run {run}")
    if identity.role not in roles:
        raise Rejected(f"the certificate is of role {identity.role}, which may not call this")
    return identity


def peer_certificate(context: Any) -> bytes:
    """The caller's certificate, PEM. TLS has looked at it when the connection was made."""
    (certificate,) = context.auth_context()["x509_pem_cert"]
    found: bytes = certificate
    return found
