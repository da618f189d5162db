from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime, timedelta

import pytest

from fedkube.pki.authority import Authority
from fedkube.wire.arguments import credentials_of, options_for_credentials
from fedkube.wire.channels import Credentials

# What a pipe holds on Linux, however small its pages are: a writer must not have to wait.
PIPE_BYTES = 4096 * 4


@pytest.fixture(scope="module")
def credentials():
    authority = Authority("run-1", datetime.now(UTC), timedelta(hours=1))
    return Credentials(authority.certificate(), *authority.issue("x", "fedkube://r/server/run"))


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(exit_on_error=False)
    options_for_credentials(parser)
    return parser


def through_a_pipe(credentials):
    read, write = os.pipe()
    os.write(write, credentials.to_bytes())
    os.close(write)
    return read


def test_a_folder_is_read(credentials, tmp_path):
    for name, content in (
        ("ca.pem", credentials.ca),
        ("cert.pem", credentials.certificate),
        ("key.pem", credentials.key),
    ):
        (tmp_path / name).write_bytes(content)
    assert Credentials.from_folder(tmp_path) == credentials


def test_a_pipe_is_read_and_closed(credentials):
    descriptor = through_a_pipe(credentials)
    assert Credentials.from_descriptor(descriptor) == credentials
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_they_fit_into_a_pipe(credentials):
    assert len(credentials.to_bytes()) < PIPE_BYTES


def test_the_key_is_in_no_log(credentials):
    assert "PRIVATE" not in repr(credentials)
    assert credentials.key.decode().splitlines()[1] not in repr(credentials)


def test_grpc_takes_them(credentials):
    assert credentials.server() is not None
    assert credentials.client() is not None


def test_the_options_say_where_they_are(credentials, parser, tmp_path):
    descriptor = through_a_pipe(credentials)
    assert credentials_of(parser.parse_args(["--tls-fd", str(descriptor)])) == credentials
    assert parser.parse_args(["--tls", str(tmp_path)]).tls == tmp_path


@pytest.mark.parametrize("words", [[], ["--tls", "x", "--tls-fd", "3"]])
def test_exactly_one_place_is_given(parser, words):
    with pytest.raises((argparse.ArgumentError, SystemExit)):
        parser.parse_args(words)
