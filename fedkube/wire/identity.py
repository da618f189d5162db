"""Who a peer is, by its certificate: a role in a run, and a name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fedkube.core.errors import Rejected


class Role(StrEnum):
    """What a certificate lets its holder do."""

    SERVER = "server"
    WORKER = "worker"
    RELAY = "relay"  # a server to those below it, a worker to the server above
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Identity:
    """A subject alternative name of a certificate: ``fedkube://RUN/ROLE/NAME``."""

    run: str
    role: Role
    name: str

    def uri(self) -> str:
        """The identity as it stands in a certificate."""
        return f"fedkube://{self.run}/{self.role}/{self.name}"


def parse(uris: Iterable[str]) -> Identity:
    """The one identity among a certificate's names; Rejected if there is none, or more."""
    found = [uri for uri in uris if uri.startswith("fedkube://")]
    if len(found) != 1:
        raise Rejected("the certificate does not name one FedKube identity")
    parts = found[0].removeprefix("fedkube://").split("/")
    if len(parts) != 3 or not all(parts) or parts[1] not in list(Role):
        raise Rejected(f"the certificate names {found[0]!r}, which is no FedKube identity")
    return Identity(parts[0], Role(parts[1]), parts[2])
