"""An app's folder as a zip file, and back: ``python -m fedkube.app.bundle ZIP SHA256 FOLDER``.

ZIP is a path, or a URL of whatever fsspec knows: https, s3, gs and others.
"""

from __future__ import annotations

import hashlib
import io
import stat
import sys
import zipfile
from pathlib import Path, PurePosixPath

from fedkube.core.errors import AppInvalid

# A ConfigMap holds a MiB; what it becomes is bounded too, or a small file could fill a disk.
MAX_PACKED = 1_000_000
MAX_FETCHED = 64 * 1024**2
MAX_UNPACKED = 64 * 1024**2
MAX_FILES = 5_000
_LEFT_OUT = {"__pycache__", "runs", "node_modules", "venv", "build", "dist"}
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path) -> tuple[bytes, str]:
    """The folder's files and their digest; the same files always give the same bytes.

    Hidden files, caches and runs stay out. AppInvalid where it is too large.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*")):
            parts = path.relative_to(folder).parts
            if any(part.startswith(".") or part in _LEFT_OUT for part in parts):
                continue
            if not path.is_symlink() and path.is_file():
                entry = zipfile.ZipInfo("/".join(parts), _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, path.read_bytes())
    data = buffer.getvalue()
    if len(data) > MAX_PACKED:
        raise AppInvalid(
            f"the app takes {len(data):,} bytes as a zip file, and at most {MAX_PACKED:,} fit",
            hint="keep data out of the app's folder, or build an image and give --image --path",
        )
    return data, hashlib.sha256(data).hexdigest()


def fetch(source: str) -> bytes:
    """The bundle's bytes, wherever they are; AppInvalid where they cannot be had."""
    if "://" not in source:
        return Path(source).read_bytes()
    try:
        import fsspec
    except ImportError:
        raise AppInvalid("a bundle behind a URL needs fedkube[storage] in the image") from None
    try:
        with fsspec.open(source, "rb") as file:
            data: bytes = file.read(MAX_FETCHED + 1)
    except Exception as error:
        # Each kind of storage has errors of its own; all of them mean that it is not to be had.
        message = (
            f"the app's bundle cannot be fetched from {source}: {error or type(error).__name__}"
        )
        raise AppInvalid(message) from error
    if len(data) > MAX_FETCHED:
        raise AppInvalid(f"the app's bundle is larger than {MAX_FETCHED:,} bytes")
    return data


def unpack(data: bytes, sha256: str, folder: Path) -> None:
    """Write the bundle's files into a folder; AppInvalid, before any is written, if it is unfit."""
    if hashlib.sha256(data).hexdigest() != sha256:
        raise AppInvalid("the app's bundle has another digest than the run asks for")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check(entries)
            for entry in entries:
                if not entry.is_dir():
                    target = folder / entry.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(entry))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise AppInvalid(f"the app's bundle is no zip file that can be read: {error}") from None


def _check(entries: list[zipfile.ZipInfo]) -> None:
    if len(entries) > MAX_FILES:
        raise AppInvalid(f"the app's bundle has {len(entries)} files, and at most {MAX_FILES}")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        raise AppInvalid(f"the app's bundle unpacks to more than {MAX_UNPACKED:,} bytes")
    seen = set()
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise AppInvalid(f"the app's bundle has {entry.filename!r}, which leads out of it")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise AppInvalid(f"the app's bundle has {entry.filename!r}, which is a link")
        if not entry.is_dir():
            if path in seen:
                raise AppInvalid(f"the app's bundle has {entry.filename!r} twice")
            seen.add(path)
    for path in seen:
        if file := next((parent for parent in path.parents if parent in seen), None):
            raise AppInvalid(f"the app's bundle has '{file}' as a file and as a folder")


def main() -> None:
    """Unpack, as an init container does."""
    packed, sha256, folder = sys.argv[1:]
    try:
        unpack(fetch(packed), sha256, Path(folder))
    except AppInvalid as error:
        # Kubernetes shows a failed container's last words.
        sys.exit(f"fedkube: {error.message}")


if __name__ == "__main__":
    main()
