from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedkube.core import ids

# The separator of derive() cannot be in what FedKube hands it: names of things, and numbers.
PARTS = st.lists(st.integers() | st.text(st.characters(codec="ascii", exclude_characters="\x1f")))
SEEDS = st.integers(0, 2**63 - 1)


@given(PARTS)
def test_a_derived_number_fits_flowers_63_bits_and_is_never_zero(parts):
    number = ids.derive(*parts)
    assert 1 <= number < 2**63
    assert number == ids.derive(*parts)


@given(st.lists(PARTS.map(tuple), min_size=2, max_size=30, unique=True))
def test_other_parts_give_other_numbers(several):
    assert len({ids.derive(*parts) for parts in several}) == len(several)


@given(SEEDS, st.integers(2, 500))
def test_the_clients_of_a_run_have_different_node_ids(seed, clients):
    nodes = {ids.node_id(seed, partition) for partition in range(clients)}
    assert len(nodes) == clients


@given(SEEDS, st.integers(0, 1000), st.integers(0, 1000))
def test_each_call_of_each_client_has_its_own_seed(seed, partition, call):
    here = ids.call_seed(seed, partition, call)
    assert here != ids.call_seed(seed, partition, call + 1)
    assert here != ids.call_seed(seed, partition + 1, call)
    assert here != ids.call_seed((seed + 1) % 2**63, partition, call)
