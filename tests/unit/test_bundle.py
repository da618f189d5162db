from __future__ import annotations

import functools
import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedkube.app import bundle
from fedkube.core.errors import AppInvalid


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o120777 << 16
    return entry


def an_app(folder: Path) -> Path:
    (folder / "pkg").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[project]")
    (folder / "pkg" / "app.py").write_text("app = 1")
    return folder


def test_what_was_packed_comes_out_again(tmp_path: Path) -> None:
    app = an_app(tmp_path / "app")
    data, digest = bundle.pack(app)
    bundle.unpack(data, digest, tmp_path / "out")
    assert (tmp_path / "out" / "pkg" / "app.py").read_text() == "app = 1"
    assert (tmp_path / "out" / "pyproject.toml").read_text() == "[project]"


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    assert bundle.pack(an_app(tmp_path / "a")) == bundle.pack(an_app(tmp_path / "b"))


def test_caches_hidden_files_links_and_runs_stay_out(tmp_path: Path) -> None:
    app = an_app(tmp_path / "app")
    for name in (".env", "pkg/__pycache__/app.pyc", "runs/1/model.safetensors"):
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text("x")
    (app / "passwd").symlink_to("/etc/passwd")
    data, _ = bundle.pack(app)
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert names == ["pkg/app.py", "pyproject.toml"]


def test_an_app_with_data_in_it_is_too_large(tmp_path: Path) -> None:
    import random

    app = an_app(tmp_path / "app")
    (app / "data.bin").write_bytes(random.Random(0).randbytes(2_000_000))
    with pytest.raises(AppInvalid, match="at most 1,000,000 fit"):
        bundle.pack(app)


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "parent": (lambda: zipped(("../evil", b"")), "leads out of it"),
    "absolute": (lambda: zipped(("/etc/evil", b"")), "leads out of it"),
    "backslash": (lambda: zipped(("a\\..\\b", b"")), "leads out of it"),
    "link": (lambda: zipped((link("a"), b"/etc/passwd")), "is a link"),
    "bomb": (lambda: zipped(("a", bytes(65 * 1024**2))), "unpacks to more than"),
    "many": (lambda: zipped(*((f"{n}", b"") for n in range(5001))), "at most 5000"),
    "file and folder": (lambda: zipped(("a/b", b""), ("a", b"")), "as a file and as a folder"),
    "twice": (lambda: zipped(("a", b"1"), ("./a", b"2")), "twice"),
    "no zip": (lambda: b"PK" + bytes(100), "no zip file"),
    "cut off": (lambda: zipped(("a", b"1" * 1000))[:-30], "no zip file"),
}


@pytest.mark.parametrize(("make", "why"), BAD.values(), ids=list(BAD))
def test_what_is_unfit_is_refused_and_nothing_written(
    tmp_path: Path, make: Callable[[], bytes], why: str
) -> None:
    data = make()
    with pytest.raises(AppInvalid, match=why):
        bundle.unpack(data, hashlib.sha256(data).hexdigest(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AppInvalid, match="another digest"):
        bundle.unpack(zipped(("a", b"")), "0" * 64, tmp_path)


@pytest.fixture
def shelf(tmp_path):
    """A folder behind a URL."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_bundle_is_fetched_from_where_it_is(shelf):
    folder, url = shelf
    (folder / "app.zip").write_bytes(b"packed")
    assert bundle.fetch(f"{url}/app.zip") == b"packed"
    assert bundle.fetch(str(folder / "app.zip")) == b"packed"


def test_a_bundle_that_cannot_be_fetched_is_named(shelf):
    _, url = shelf
    for where in (f"{url}/not-there.zip", "http://127.0.0.1:9/app.zip", "nowhere://a/b.zip"):
        with pytest.raises(AppInvalid, match=re.escape(f"cannot be fetched from {where}")):
            bundle.fetch(where)


def test_a_bundle_that_is_too_large_is_not_read_to_its_end(shelf, monkeypatch):
    folder, url = shelf
    monkeypatch.setattr(bundle, "MAX_FETCHED", 1000)
    (folder / "app.zip").write_bytes(bytes(1001))
    with pytest.raises(AppInvalid, match="larger than 1,000 bytes"):
        bundle.fetch(f"{url}/app.zip")
