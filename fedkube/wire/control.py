"""The launcher's end of the control calls: follow a run, stop a run, ban its sites."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.channels import BAN, STOP, WATCH, Credentials, connect


class ControlClient:
    """Calls one aggregation server."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self._channel = connect(address, credentials)

    async def watch(self) -> AsyncIterator[pb.Snapshot]:
        """Where the run is, now and whenever that changes; ends with the server."""
        call = self._channel.unary_stream(
            WATCH,
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.Snapshot.FromString,
        )(pb.WatchRequest())
        try:
            async for snapshot in call:
                yield snapshot
        except grpc.aio.AioRpcError:
            return

    async def stop(self, reason: str, timeout_s: float, *, broken: bool = False) -> bool:
        """Ask the run to stop; False if the server does not answer in time.

        ``broken``: it is not a person who wants this; the run cannot go on.
        """
        call = self._channel.unary_unary(
            STOP,
            request_serializer=pb.StopRequest.SerializeToString,
            response_deserializer=pb.StopReply.FromString,
        )
        try:
            await call(pb.StopRequest(reason=reason, broken=broken), timeout=timeout_s)
        except grpc.aio.AioRpcError:
            return False
        return True

    async def ban(self, sites: Sequence[str], timeout_s: float) -> str:
        """Let these sites take part no more, and all others again; why not, or nothing."""
        call = self._channel.unary_unary(
            BAN,
            request_serializer=pb.BanRequest.SerializeToString,
            response_deserializer=pb.BanReply.FromString,
        )
        try:
            await call(pb.BanRequest(sites=sites), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.details() or str(error.code())
        return ""

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()
