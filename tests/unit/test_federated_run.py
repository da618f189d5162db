from __future__ import annotations

import pytest
from pydantic import ValidationError

from fedkube.api.v1alpha1 import Checkpoints, Pool, RunSpec, Server
from fedkube.api.v1alpha1.federated_run import ServerGroup
from fedkube.core.quantisation import Compression


def spec(**fields):
    return RunSpec(**{"app": "a", "pool": Pool(clients=2), "seed": 1, **fields})


def test_fields_are_camel_case_in_files():
    written = spec(run_config={"num-rounds": 3}).model_dump(by_alias=True)
    assert written["runConfig"] == {"num-rounds": 3}
    assert {"clientTimeoutS", "maxAttempts", "cacheBytes"} <= set(written["pool"])


def test_defaults_are_those_that_are_documented():
    made = spec()
    assert (made.pool.max_attempts, made.pool.threads) == (3, 1)
    assert made.pool.client_timeout_s is None
    assert made.server.listen == "127.0.0.1:0"
    assert (made.checkpoints.every, made.checkpoints.keep) == (1, 3)


@pytest.mark.parametrize("config", [{"a": True}, {"a": 1}, {"a": 1.0}, {"a": "1"}])
def test_a_config_value_keeps_its_type(config):
    read = RunSpec.model_validate_json(spec(run_config=config).model_dump_json())
    assert read.run_config == config
    assert type(read.run_config["a"]) is type(config["a"])


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Pool, {"clients": 0}),
        (Pool, {"clients": "2"}),
        (Pool, {"clients": 2, "client_timeout_s": 0.0}),
        (Pool, {"clients": 2, "max_attempts": 0}),
        (Pool, {"clients": 2, "threads": 0}),
        (Pool, {"clients": 2, "cache_bytes": 1000}),
        (Pool, {"clients": 2, "cients": 3}),
        (Checkpoints, {"every": -1}),
        (Checkpoints, {"keep": -1}),
        (Server, {"listen": 8080}),
    ],
)
def test_what_is_out_of_range_or_unknown_is_refused(kind, fields):
    with pytest.raises(ValidationError):
        kind(**fields)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, None])
def test_a_seed_is_a_natural_number_of_63_bits(seed):
    with pytest.raises(ValidationError):
        spec(seed=seed)


@pytest.mark.parametrize("value", [[1], {"b": 1}, None])
def test_a_config_holds_scalars_only(value):
    with pytest.raises(ValidationError):
        spec(run_config={"a": value})


@pytest.mark.parametrize("kind", [each.value for each in Compression])
def test_updates_are_compressed_as_a_run_says_and_otherwise_not(kind):
    assert spec().compression == "none"
    assert RunSpec.model_validate_json(spec(compression=kind).model_dump_json()).compression == kind
    with pytest.raises(ValidationError, match="compression"):
        spec(compression="int4")


@pytest.mark.parametrize("place", ["", "off", "s3://bucket", "gs://b/c", "az://c/d", "abfss://c/d"])
def test_a_journal_is_in_the_run_folder_or_in_an_object_store_or_nowhere(place):
    assert ServerGroup(journal=place).journal == Server(journal=place).journal == place


@pytest.mark.parametrize("place", ["s3:/bucket", "http://x", "/tmp/x", "on", "s3://a b", "s3://"])
def test_a_journal_cannot_be_anywhere_else(place):
    for kind in (Server, ServerGroup):
        with pytest.raises(ValidationError, match="journal"):
            kind(journal=place)
