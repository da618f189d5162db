from __future__ import annotations

import sys

import pytest

from fedkube.cli import main
from fedkube.core import errors
from fedkube.core.errors import Exit, FedKubeError

CODES = {
    "Usage": 2,
    "AppInvalid": 3,
    "Environment": 5,
    "Superseded": 5,
    "Gone": 4,
    "Rejected": 1,
    "FedKubeError": 1,
}


def test_exit_codes_are_those_that_are_documented():
    assert {exit_code.name: int(exit_code) for exit_code in Exit} == {
        "OK": 0,
        "INTERNAL": 1,
        "USAGE": 2,
        "APP_INVALID": 3,
        "RUN_FAILED": 4,
        "ENVIRONMENT": 5,
        "STOPPED": 130,
    }


@pytest.mark.parametrize(("name", "code"), list(CODES.items()))
def test_each_error_has_its_exit_code(name, code):
    error = getattr(errors, name)("a sentence", hint="do this", details="a traceback")
    assert isinstance(error, FedKubeError)
    assert error.exit_code == code
    assert (str(error), error.message) == ("a sentence", "a sentence")
    assert (error.hint, error.details) == ("do this", "a traceback")


def test_every_error_class_is_in_this_list():
    classes = {cls.__name__ for cls in FedKubeError.__subclasses__()}
    assert classes <= set(CODES)


def test_every_exit_code_is_explained_in_the_help():
    assert set(main.EXIT_CODES) == set(Exit)


def test_an_error_ends_the_command_with_its_code_and_the_sentence_last(monkeypatch, capsys):
    def broken():
        raise errors.AppInvalid("[x] is broken", hint="mend [y]", details="a [traceback]")

    monkeypatch.setattr(main, "app", broken)
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert exit_.value.code == Exit.APP_INVALID
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == ["a [traceback]", "error: [x] is broken", "hint:  mend [y]"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["run"], 2),
        (["run", "x", "--no-such-option"], 2),
        (["run", "x", "--clients", "many"], 2),
        (["run", "/no/such/app"], 3),
    ],
)
def test_the_command_line_ends_with_the_documented_code(monkeypatch, words, code):
    monkeypatch.setattr(sys, "argv", ["fedkube", *words])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert (exit_.value.code or 0) == code
