from __future__ import annotations

import pytest

from fedkube.core.errors import Rejected
from fedkube.wire.identity import Identity, Role, parse


@pytest.mark.parametrize("role", list(Role))
def test_an_identity_comes_back_from_its_uri(role):
    identity = Identity("20260101-000000-a-beef", role, "worker-3")
    assert parse([identity.uri()]) == identity


def test_the_uri_is_the_one_that_is_documented():
    assert Identity("run-1", Role.WORKER, "worker-0").uri() == "fedkube://run-1/worker/worker-0"


def test_names_of_other_kinds_are_passed_over():
    names = ["localhost", "127.0.0.1", "fedkube://r/server/run", "spiffe://x/y"]
    assert parse(names) == Identity("r", Role.SERVER, "run")


@pytest.mark.parametrize(
    "names",
    [[], ["localhost"], ["fedkube://r/worker/a"] * 2, ["fedkube://r/worker/a", "fedkube://"]],
)
def test_a_certificate_names_exactly_one_identity(names):
    with pytest.raises(Rejected, match="does not name one FedKube identity"):
        parse(names)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "r",
        "r/worker",
        "r/worker/",
        "/worker/a",
        "r//a",
        "r/root/a",
        "r/worker/a/b",
        "r/WORKER/a",
    ],
)
def test_another_form_is_refused(rest):
    with pytest.raises(Rejected, match="is no FedKube identity"):
        parse([f"fedkube://{rest}"])
