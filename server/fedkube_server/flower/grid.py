"""Flower's ``Grid`` on the exchange: what a ServerApp uses to reach its clients."""

from __future__ import annotations

import copy
import itertools
import logging
import struct
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from flwr.app import Message, Metadata, RecordDict
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedkube.core import ids
from fedkube.core.errors import FedKubeError, Rejected
from fedkube.core.quantisation import Compression
from fedkube.core.tasks import Kind
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.proto.v1 import journal_pb2 as journal
from fedkube.wire import contents, packed
from fedkube.wire.limits import BATCH_BYTES
from fedkube.wire.tensors import digest
from fedkube_server import states
from fedkube_server.blobs import BlobStore, StoredBlob
from fedkube_server.calls import Admission, Answer, Ending, NewTask, Outgoing
from fedkube_server.driver import Driver
from fedkube_server.flower.batches import Batch, Mailbox, Sent
from fedkube_server.flower.messages import Ids, pack, reply, withdrawn
from fedkube_server.flower.rules import admit_folded
from fedkube_server.flower.tracking import Handling, Tracker
from fedkube_server.folds import Fold, Late, sent_arrays
from fedkube_server.folds import Sent as ArraySent
from fedkube_server.halt import Ending as RunEnding
from fedkube_server.halt import Halt
from fedkube_server.landing import Landed
from fedkube_server.late import Away, Come, LateUpdates
from fedkube_server.past import Past
from fedkube_server.quorum import Quorum
from fedkube_server.recorder import Recorder
from fedkube_server.seats import Seats

log = logging.getLogger("fedkube.server")

# Flower's strategies wait for so long where the app says nothing.
_FLOWERS_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Federation:
    """The logical clients of a run: node ids by partition, and what each is told of itself.

    ``workers``: how many are meant to serve them.
    """

    seed: int
    node_ids: tuple[int, ...]
    client_timeout_s: float
    compression: Compression = Compression.NONE
    workers: int = 1

    @classmethod
    def of(
        cls,
        seed: int,
        clients: int,
        client_timeout_s: float | None,
        compression: Compression = Compression.NONE,
        workers: int = 1,
    ) -> Federation:
        """``clients`` logical clients with the node ids that this seed gives them."""
        nodes = tuple(ids.node_id(seed, partition) for partition in range(clients))
        return cls(seed, nodes, client_timeout_s or 0.0, compression, workers)


class ExchangeGrid(Grid):
    """Sends by queueing tasks for workers to pull; waits without polling.

    ``first``: where its tasks and messages begin to be numbered.

    Replies are given in the order of the messages, not of their arrival: sums of floats depend on
    the order, and the same seed must give the same model.
    """

    def __init__(
        self,
        run: Run,
        federation: Federation,
        driver: Driver,
        store: BlobStore,
        tracker: Tracker,
        recorder: Recorder,
        halt: Halt,
        seats: Seats,
        past: Past | None = None,
        mailbox: Mailbox | None = None,
        first: int = 1,
    ) -> None:
        self._run = run
        self._federation = federation
        self._partitions = {node: index for index, node in enumerate(federation.node_ids)}
        self._driver = driver
        self._store = store
        self._tracker = tracker
        self._recorder = recorder
        self._halt = halt
        self._seats = seats
        self._past = past or Past()
        self._mailbox = mailbox or Mailbox(halt)
        tracker.remember, tracker.remembered = self._remember, driver.remembered
        self._late = tracker.late
        self._warned = False
        self._taking: Batch | None = None  # what takes the late updates that come now
        self._task_ids = itertools.count(first)
        self._message_numbers = itertools.count(first)
        self._ids = Ids()
        self._pushed: dict[str, Sent] = {}
        self._lock = threading.Lock()

    def set_run(self, run: Run) -> None:
        """Take another description of the run."""
        if not isinstance(run, Run):
            raise TypeError(f"`run` must be a Run, and is a {type(run).__name__}")
        self._run = run

    @property
    def run(self) -> Run:
        """A copy of the run's description."""
        return Run(**vars(self._run))

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message for a client; Flower's newer way is to construct a ``Message``."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """A pool's clients, which stay while workers come and go, or the sites that are connected.

        Waits until as many sites are there as a round needs.
        """
        self._halt.check()
        nodes = self._federation.node_ids
        return (
            [nodes[client] for client in self._past.tell(self._seats.wait)]
            if self._seats.sites
            else list(nodes)
        )

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The same with their names: of the site, or by their partition."""
        return [
            NodeInfo(node_id=node, status="online", name=self._name(self._partitions[node]))
            for node in self.get_node_ids()
        ]

    def _name(self, client: int) -> str:
        return self._seats.sites[client] if self._seats.sites else f"client-{client}"

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; the ids are what ``pull_messages`` takes."""
        messages = list(messages)
        if not messages:
            return []
        batch = self._send(messages, closes=True)
        with self._lock:
            for sent in batch.order:
                self._pushed[sent.message.metadata.message_id] = sent
        return [sent.message.metadata.message_id for sent in batch.order]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are there; each is given once, and an id that is unknown gives none."""
        self._halt.check()
        replies = []
        with self._lock:
            for message_id in message_ids:
                sent = self._pushed.get(message_id)
                if sent is not None and sent.outcome is not None:
                    del self._pushed[message_id]
                    replies.append(self._reply(sent.message.metadata, sent.outcome))
        if replies:
            self._past.commit(number=self._recorder.round)
        return replies

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and wait for their replies, in the order of the messages.

        When time runs out, or enough have answered, the replies that are there are given, and the
        others are not waited for any more: their clients are cancelled, so that a straggler does
        not hold up the next round.
        """
        messages = list(messages)
        if not messages:
            return []
        batch = self._send(messages, closes=timeout is not None and timeout < _FLOWERS_TIMEOUT_S)
        limit, reason = _time_limit(timeout, batch.quorum)
        more, starved = partial(self._may_come, batch), partial(self._is_starved, batch)
        if not self._mailbox.wait(batch, limit, more, starved):
            open_yet = [sent.task for sent in batch.order if sent.outcome is None]
            self._close(batch, open_yet, pb.Failure(code=pb.Failure.WITHDRAWN, reason=reason))
            self._mailbox.wait(batch, None)
        replies = [
            self._reply(sent.message.metadata, sent.outcome)
            for sent in batch.order
            if sent.outcome is not None and not withdrawn(sent.outcome)
        ]
        if self._late is not None and batch.folds is not None:
            replies += self._take_late(self._late, batch, *batch.folds)
        self._tracker.collected(batch.phase, replies)
        if batch.ends_phase:
            # What a strategy has asked for is committed when it aggregates.
            self._past.commit(number=self._recorder.round)
        return replies

    def close(self) -> None:
        """The app has ended, and nobody takes what is late any more."""
        if self._late is not None:
            away = self._late.all_away()
            self._driver.withdraw(away, pb.Failure.WITHDRAWN, "the run is over")

    # ------------------------------------------------------------- inside

    def _send(self, messages: Sequence[Message], *, closes: bool) -> Batch:
        """``closes``: it may be that not all replies are waited for."""
        self._halt.check()
        handling = self._tracker.sending(messages)
        self._warn_of_keys(messages[0].content)
        order = [self._sent(message) for message in messages]
        batch = Batch(handling.phase, order, not handling.declared, handling.quorum)
        batch.round = self._tracker.newest
        try:
            packed = pack(messages, self._store)
        except Rejected as error:
            # Flower's older API swallows this on its threads; the phase's end tells it then.
            self._tracker.unsent = error.message
            raise
        outgoing: dict[tuple[int, str, str], tuple[Outgoing, bytes]] = {}
        tasks = []
        over = []
        for sent in batch.order:
            if sent.client < 0:
                self._settled(batch, sent, _UNKNOWN_CLIENT)
                continue
            metadata = sent.message.metadata
            key = (id(sent.message.content), metadata.message_type, metadata.group_id)
            if key not in outgoing:
                message = self._outgoing(metadata, *packed[key[0]], handling, closes=closes)
                outgoing[key] = (message, self._asked(message))
            message, asked = outgoing[key]
            if handling.late is not None and message.fold is not None:
                batch.folds = batch.folds or (message.fold, message.sent)
            turn = self._past.turn(sent.client)
            outcome = self._recall(sent.client, turn, asked, message.fold)
            if outcome is not None:
                over.append((sent, outcome))
                continue
            if (busy := self._busy(sent.client)) is not None:
                self._past.settled(sent.client, turn, asked, message.fold, busy)
                over.append((sent, busy))
                continue
            tasks.append(self._task(batch, sent, message, handling.admit, turn, asked))
        surplus = self._begin_taking(batch)
        for sent, outcome in over:
            if isinstance(outcome, Answer):
                handling.admit(outcome)
            self._settled(batch, sent, outcome)
        if tasks:
            self._recorder.asking()
        if handling.quorum is not None:
            surplus += handling.quorum.asked(task.id for task in tasks)
        self._driver.submit(tasks)
        self._close(batch, surplus, _ENOUGH)
        return batch

    def _reply(self, asked: Metadata, outcome: Ending) -> Message:
        return reply(asked, outcome, self._ids.new())

    def _warn_of_keys(self, content: RecordDict) -> None:
        """Say once that an app's secure aggregation does not hide updates from this server."""
        if RECORD_KEY_CONFIGS in content and not self._warned:
            self._warned = True
            log.warning(
                "the app uses Flower's SecAgg+, which hides nothing from this server: clients keep "
                "their secret keys in Context.state, and that is kept here between their calls"
            )

    def _close(self, batch: Batch, tasks: Sequence[int], why: pb.Failure) -> None:
        """Wait no more for these of a batch's tasks."""
        if not tasks:
            return
        done = self._driver.withdraw if batch.folds is None else self._driver.leave_behind
        done(tasks, why.code, why.reason)

    def _outgoing(
        self,
        metadata: Metadata,
        content: pb.Content,
        blobs: list[StoredBlob],
        handling: Handling,
        *,
        closes: bool,
    ) -> Outgoing:
        """What the messages of these contents, type and group have in common."""
        fold = handling.fold
        # Where the first so many answers close the phase, each has to come by itself and at once;
        # so has one that may turn out to be late.
        racing = handling.quorum is not None and (
            handling.quorum.enough is not None or handling.late is not None
        )
        number = next(self._message_numbers)
        timeout_s = self._federation.client_timeout_s
        nbytes = sum(len(blob.data) for blob in blobs)
        trains = metadata.message_type.partition(".")[0] == "train"
        compression = self._federation.compression if trains else Compression.NONE
        # Whether a worker sums changes no bit of the mean, so what is fewer bytes may decide.
        summed = fold is not None and (
            compression is Compression.NONE or self._sums_pay(content, compression, fold.cohort)
        )
        kind = Kind(
            key=number,
            pace=metadata.message_type,
            foldable=summed and not racing,
            # A timeout is one call's, so each must be seen to begin and end.
            most=1 if timeout_s or racing else max(1, BATCH_BYTES // max(1, nbytes)),
            closes=closes or handling.quorum is not None,
        )
        frame = pb.Task(
            timeout_s=timeout_s,
            message_type=metadata.message_type,
            group=metadata.group_id,
            content=content,
            fold=None if fold is None else fold.spec(number),
            compression=packed.NUMBERS[compression],
            bound=bool(self._seats.sites),
        )
        sent = {} if fold is None else sent_arrays(content, blobs)
        return Outgoing(frame, blobs, kind, fold, sent)

    def _asked(self, message: Outgoing) -> bytes:
        """The digest of what a client is asked, apart from what differs from life to life."""
        if not self._past.keeps and not self._past.left:
            return b""
        frame = message.frame
        parts = (frame.message_type.encode(), frame.group.encode(), contents.encoded(frame.content))
        lengths = struct.pack(f"<{len(parts)}Q", *map(len, parts))
        return digest(b"".join((lengths, *parts, *(blob.digest for blob in message.blobs))))

    def _recall(self, client: int, turn: int, asked: bytes, fold: Fold | None) -> Ending | None:
        """How a message ended in an earlier life of the server, or None."""
        try:
            outcome = self._past.recall(client, turn, asked, fold)
        except FedKubeError as error:
            self._halt.set(RunEnding.of(error))
            raise
        if isinstance(outcome, Answer):
            self._remember(client, outcome)
        return outcome

    def _remember(self, client: int, answer: Answer) -> None:
        """What the client keeps since then."""
        self._driver.remember(client, states.keep(answer, self._store))

    def _sums_pay(self, content: pb.Content, compression: Compression, updates: int) -> bool:
        if relays := self._driver.relays:
            # What a relay does not sum, it sends on as the arrays that it has unpacked.
            return packed.sums_pay(content, Compression.NONE, updates, relays)
        workers = max(self._federation.workers, self._driver.workers)
        return packed.sums_pay(content, compression, updates, workers)

    def _sent(self, message: Message) -> Sent:
        metadata = message.metadata
        metadata.__dict__["_message_id"] = self._ids.new()
        return Sent(next(self._task_ids), self._partitions.get(metadata.dst_node_id, -1), message)

    def _task(
        self,
        batch: Batch,
        sent: Sent,
        message: Outgoing,
        admit: Admission,
        turn: int,
        asked: bytes,
    ) -> NewTask:
        metadata = sent.message.metadata
        call = pb.Call(
            id=sent.task,
            node=metadata.dst_node_id,
            partition=sent.client,
            seed=ids.call_seed(self._federation.seed, sent.client, turn),
            message_id=metadata.message_id,
            created_at=metadata.created_at,
            ttl=metadata.ttl,
        )

        def over(outcome: Ending) -> None:
            self._past.settled(sent.client, turn, asked, message.fold, outcome)
            self._settled(batch, sent, outcome)

        def settled(outcome: Ending) -> None:
            if sent.late and self._late is not None:
                self._came_late(self._late, batch.round, sent, turn, asked, message, outcome)
            else:
                over(outcome)

        def left(failure: pb.Failure) -> None:
            assert self._late is not None, "only then are phases closed without clients"
            sent.late = True
            self._late.left(sent.client, Away(sent.task, batch.round))
            failure.code = pb.Failure.NOT_NEEDED
            failure.reason += "; its update counts in the round in which it comes"
            over(failure)

        return NewTask(
            id=sent.task,
            client=sent.client,
            call=call,
            message=message,
            admit=admit,
            settled=settled,
            left=left,
            # From now on: when it was created is a time of day, which may have jumped since.
            expires_in_s=metadata.ttl,
        )

    def _settled(self, batch: Batch, sent: Sent, outcome: Ending) -> None:
        failure = None if isinstance(outcome, Answer) else outcome.reason
        if sent.outcome is None:
            needed = isinstance(outcome, Answer) or outcome.code != pb.Failure.NOT_NEEDED
            self._recorder.settled(batch.phase, sent.client, failure, needed=needed)
            if batch.open == 1 and batch.ends_phase:
                self._recorder.end(batch.phase)
        self._mailbox.put(batch, sent, outcome)
        if batch.quorum is not None:
            self._close(batch, batch.quorum.settled(sent.task, not failure), _ENOUGH)

    # ------------------------------------------------------------- late updates

    def _busy(self, client: int) -> pb.Failure | None:
        """Why a client is not asked: it is still at an earlier message, and its state is, too."""
        away = self._late.away(client) if self._late is not None else None
        if away is None:
            return None
        reason = f"not asked: the client is still at its message of round {away.round}"
        return pb.Failure(code=pb.Failure.NOT_NEEDED, reason=reason)

    def _begin_taking(self, batch: Batch) -> list[int]:
        """Late updates are this batch's now; those of its tasks that are not needed any more."""
        if self._late is None or batch.folds is None:
            return []
        old = self._late.too_old(batch.round)
        self._driver.withdraw(old, pb.Failure.WITHDRAWN, "its round is too long ago")
        with self._lock:
            self._taking = batch
            there = self._late.waiting
        return batch.quorum.late(there) if batch.quorum is not None and there else []

    def _may_come(self, batch: Batch) -> bool:
        """Whether the batch takes late updates, wants more answers, and there may be some."""
        if self._late is None or batch.folds is None or batch.quorum is None:
            return False
        return batch.quorum.wants and self._late.coming

    def _is_starved(self, batch: Batch) -> bool:
        """Whether the batch takes late updates, and has none of any kind when its time is up.

        A round of nothing would end the run, though all that is wrong is that clients take longer.
        """
        if self._late is None or batch.folds is None or batch.quorum is None:
            return False
        return batch.quorum.none

    def _came_late(
        self,
        late: LateUpdates,
        number: int,
        sent: Sent,
        turn: int,
        asked: bytes,
        message: Outgoing,
        outcome: Ending,
    ) -> None:
        """A message of a round that is over has ended. On the event loop."""
        batch = None
        if isinstance(outcome, Answer):
            # What they landed in is used again when this returns.
            views = list(outcome.blobs)
            answer = Answer(outcome.outcome, views, outcome.records)
            landed = [Landed.known(view) for view in views]
            update = Late(outcome.outcome, outcome.digests, landed, message.sent)
            group = sent.message.metadata.group_id
            come = Come(sent.client, turn, asked, number, group, answer, update)
            with self._lock:
                late.came(come)
                batch = self._taking
        else:
            late.gone(sent.client)
            said = f"client {sent.client} of round {number}: {outcome.reason}"
            log.info("a late update does not come from %s", said)
        if batch is not None and batch.quorum is not None:
            self._close(batch, batch.quorum.late(), _ENOUGH)
        self._mailbox.wake()

    def _take_late(
        self, late: LateUpdates, batch: Batch, fold: Fold, sent: Mapping[str, ArraySent]
    ) -> list[Message]:
        """Add what has come late to a phase's sum; the replies."""
        with self._lock:
            self._taking = None
            come = late.take()
        replies = []
        answered = {each.client for each in batch.order if isinstance(each.outcome, Answer)}
        for ended, answer in self._past.recall_late(fold):
            if ended.client not in answered:  # by then, it had kept something newer
                self._remember(ended.client, answer)
            admit_folded(fold)(answer)
            replies += self._late_reply(batch, ended.client, ended.late, answer)
        for each in come:
            rounds = batch.round - each.round
            counted = _added(fold, each, sent, late.share(rounds))
            note = journal.Late(group=each.group, rounds=rounds, counted=counted)
            self._past.settled(each.client, each.turn, each.asked, fold, each.answer, note)
            replies += self._late_reply(batch, each.client, note, each.answer)
        return replies

    def _late_reply(
        self, batch: Batch, client: int, late: journal.Late, answer: Answer
    ) -> list[Message]:
        """The reply to a message of an earlier round, where it counts."""
        if not late.counted:
            return []
        self._recorder.late(batch.phase, client, late.rounds)
        metadata = copy.copy(batch.order[0].message.metadata)
        metadata.__dict__["_dst_node_id"] = self._federation.node_ids[client]
        metadata.__dict__["_group_id"] = late.group
        metadata.__dict__["_message_id"] = ""  # of an earlier round, or of an earlier life
        return [self._reply(metadata, answer)]


def _added(fold: Fold, come: Come, sent: Mapping[str, ArraySent], share: float) -> bool:
    if not share:
        return False
    try:
        fold.add_late(come.late, sent, share)
        return True
    except Rejected as error:
        log.warning("a late update of client %d does not count: %s", come.client, error.message)
        return False


def _time_limit(timeout: float | None, quorum: Quorum | None) -> tuple[float | None, str]:
    """How long a batch is waited for, and what is said of those that are late."""
    left = quorum.left() if quorum is not None else None
    if left is not None and quorum is not None and (timeout is None or left < timeout):
        return left, f"no reply within the round's deadline of {quorum.deadline_s:g} s"
    return timeout, f"no reply within the round's timeout of {timeout:g} s" if timeout else ""


_ENOUGH = pb.Failure(
    code=pb.Failure.NOT_NEEDED,
    reason="not needed: as many clients as were wanted have answered",
)
_UNKNOWN_CLIENT = pb.Failure(
    code=pb.Failure.UNKNOWN_CLIENT, reason="there is no client with this node id"
)
