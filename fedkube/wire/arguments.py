"""How a process of ours is told who it is."""

from __future__ import annotations

import argparse
from pathlib import Path

from fedkube.wire.channels import Credentials


def options_for_credentials(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``credentials_of`` reads."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--tls", type=Path, help="a folder with ca.pem, cert.pem and key.pem")
    group.add_argument("--tls-fd", type=int, help="a pipe with the same, from a launcher")


def credentials_of(options: argparse.Namespace) -> Credentials:
    """Read them, wherever they are."""
    if options.tls_fd is not None:
        return Credentials.from_descriptor(options.tls_fd)
    return Credentials.from_folder(options.tls)
