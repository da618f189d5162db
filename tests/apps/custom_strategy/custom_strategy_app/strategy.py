"""FedAvg that numbers its clients and keeps the best instead of the last model."""

from collections.abc import Callable, Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result


class BestModelFedAvg(FedAvg):
    """Stops at nothing, but returns the model with the lowest central loss."""

    def __init__(self) -> None:
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        self.best_round = 0
        self.best_loss = float("inf")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Give every client a config of its own that holds its place in the round."""
        messages = list(super().configure_train(server_round, arrays, config, grid))
        for place, message in enumerate(messages):
            own_config = ConfigRecord({**config, "place": place})
            message.content = RecordDict({"arrays": arrays, "config": own_config})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average as FedAvg does and add the number of replies to the metrics."""
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        if metrics is not None:
            metrics["replies"] = len(replies)
        return arrays, metrics

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run the rounds; the result's arrays are those of the best round."""
        train_config = train_config or ConfigRecord()
        result = Result(arrays=initial_arrays)
        arrays = initial_arrays
        for server_round in range(1, num_rounds + 1):
            messages = self.configure_train(server_round, arrays, train_config, grid)
            replies = grid.send_and_receive(messages, timeout=timeout)
            new_arrays, metrics = self.aggregate_train(server_round, replies)
            if new_arrays is None or metrics is None:
                continue
            arrays = new_arrays
            result.train_metrics_clientapp[server_round] = metrics
            scores = evaluate_fn(server_round, arrays) if evaluate_fn else None
            if scores is None:
                continue
            result.evaluate_metrics_serverapp[server_round] = scores
            if scores["loss"] < self.best_loss:
                self.best_round, self.best_loss = server_round, float(scores["loss"])
                result.arrays = arrays
        return result
