"""What becomes of clients that were given out together when their process ends."""

from fedkube_client.agent import _unserved
from fedkube_client.executor import Ended

from fedkube.proto.v1 import exchange_pb2 as pb


def test_the_client_that_was_being_served_is_blamed_and_the_others_have_to_be_served_again():
    task = pb.Task(calls=[pb.Call(id=number) for number in (7, 8, 9)])
    killed = pb.Failure(code=pb.Failure.KILLED, reason="killed")
    outcomes = _unserved(task, Ended(killed, place=1))
    assert [each.call for each in outcomes] == [7, 8, 9]
    assert outcomes[1].failure == killed
    assert {outcomes[0].failure.code, outcomes[2].failure.code} == {pb.Failure.NOT_SERVED}
