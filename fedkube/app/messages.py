"""Flower's messages, made of parts that are known to be right."""

from __future__ import annotations

from flwr.app import Error, Message, Metadata, RecordDict


def make(
    *,
    run_id: int,
    message_id: str,
    src_node_id: int,
    dst_node_id: int,
    reply_to_message_id: str,
    group_id: str,
    created_at: float,
    ttl: float,
    message_type: str,
    src_task_id: int | None = None,
    dst_task_id: int | None = None,
    content: RecordDict | None = None,
    error: Error | None = None,
) -> Message:
    """As Flower's ``make_message``, which checks for each what kinds its arguments are of.

    A round has two for each of its clients. ``message_type``: of a message that there was.
    """
    metadata = Metadata.__new__(Metadata)
    metadata.__dict__.update(
        _run_id=run_id,
        _message_id=message_id,
        _src_node_id=src_node_id,
        _dst_node_id=dst_node_id,
        _src_task_id=src_task_id,
        _dst_task_id=dst_task_id,
        _reply_to_message_id=reply_to_message_id,
        _group_id=group_id,
        _created_at=created_at,
        _ttl=ttl,
        _message_type=message_type,
        _delivered_at="",
    )
    message = Message.__new__(Message)
    message.__dict__.update(_metadata=metadata, _content=content, _error=error)
    return message
