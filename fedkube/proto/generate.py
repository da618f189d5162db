"""Generates the protobuf code: ``python -m fedkube.proto.generate [--check]``."""

from __future__ import annotations

import filecmp
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def _protos() -> list[Path]:
    return sorted(HERE.glob("v*/*.proto"))


def generate(into: Path) -> list[Path]:
    """Write the code and its stubs below ``into``; returns the files, relative to it."""
    from grpc_tools import protoc  # a development dependency

    sources = [str(path.relative_to(ROOT)) for path in _protos()]
    arguments = ["protoc", f"-I{ROOT}", f"--python_out={into}", f"--pyi_out={into}", *sources]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    return sorted(path.relative_to(into) for path in into.rglob("*_pb2.py*"))


def check() -> list[Path]:
    """The committed files that differ from what the .proto files give."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        return [
            path
            for path in generate(fresh)
            if not (ROOT / path).is_file() or not filecmp.cmp(fresh / path, ROOT / path, False)
        ]


def main() -> None:
    """Generate, or with ``--check`` say what is stale and exit 1."""
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return
    stale = check()
    if stale:
        names = "\n  ".join(map(str, stale))
        raise SystemExit(f"generated code is stale; run `make proto` and commit:\n  {names}")


if __name__ == "__main__":
    main()
