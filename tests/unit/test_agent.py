"""What an agent says when, without a server or an executor."""

from __future__ import annotations

from pathlib import Path

import pytest
from fedkube_client.agent import Agent
from fedkube_client.executor import AppSettings

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire import frames
from fedkube.wire.channels import Credentials


class Held:
    """A sum of one call's update."""

    known: frozenset[bytes] = frozenset()
    calls = (7,)

    def export(self):
        return pb.Sum(fold=3, calls=self.calls), []


@pytest.fixture
def agent():
    return Agent(
        "nowhere:1", "worker-0", Credentials(b"", b"", b""), AppSettings(Path(), "app", 1), 1
    )


def say(agent, **kind):
    agent.receive(frames.control(pb.ServerFrame(**kind)))


def waiting(agent):
    """The uploads that are not settled, by what they are."""
    return [type(upload.frame).__name__ for upload in agent._uploads]


def test_a_sum_goes_when_it_is_asked_for(agent):
    agent._sums[3] = Held()
    say(agent, flush=pb.Flush())
    assert waiting(agent) == ["Sum"]
    assert agent.hello().held == []


def test_a_sum_goes_after_the_replies_that_tell_of_it(agent):
    reply = pb.Reply(assignment=1, outcomes=[pb.Outcome(call=7, held=True)])
    agent._uploads.add(reply, [], set())
    agent._sums[3] = Held()
    say(agent, flush=pb.Flush())
    assert waiting(agent) == ["Reply"]
    assert agent.hello().held == [7]
    say(agent, settled=pb.Settled(upload=reply.upload))
    assert waiting(agent) == ["Sum"]
