"""Running the ServerApp to its end."""

from __future__ import annotations

import gc
import random

from flwr.app import Context, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.logger import update_console_handler
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from fedkube.api.v1alpha1 import RunSpec
from fedkube.app import arrays, loading, project, tracebacks, typed_dicts
from fedkube.core import ids
from fedkube.core.errors import FedKubeError
from fedkube.core.run_states import RunEvent
from fedkube_server.flower import hooks
from fedkube_server.flower.tracking import Tracker
from fedkube_server.halt import Ending, Halted

_COMPLETED = Ending(RunEvent.FINISHED, "Completed", "the ServerApp returned")


def describe(run_id: str) -> Run:
    """The run as Flower's own objects describe it."""
    return Run.create_empty(run_number(run_id))


def run_number(run_id: str) -> int:
    """The run's number as Flower apps see it."""
    return ids.derive("run", run_id)


def execute(spec: RunSpec, grid: Grid, tracker: Tracker, number: int) -> Ending:
    """Load the ServerApp and call it; how it ended. Halted passes through."""
    update_console_handler(colored=False)
    arrays.keep_elements()
    typed_dicts.quicken()
    loading.identify(number, SUPERLINK_NODE_ID, 1)
    try:
        app = project.read(spec.app)
        hooks.install(tracker)
        random.seed(spec.seed)
        server_app = loading.load(app.serverapp, app.folder, ServerApp)
        loading.seed_everything(ids.derive("server", spec.seed))
        context = Context(
            run_id=number,
            node_id=SUPERLINK_NODE_ID,
            node_config={},
            state=RecordDict(),
            run_config=dict(spec.run_config),
        )
        gc.freeze()  # what is loaded by now stays; collections need not look at it
        server_app(grid=grid, context=context)
    except FedKubeError as error:
        return Ending.of(error)
    except Halted:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the app raises
        if isinstance(error, SystemExit) and not error.code:
            return _COMPLETED
        message = f"the ServerApp raised {type(error).__name__}: {error}"
        details = tracebacks.of_app(error, spec.app)
        return Ending(RunEvent.BROKE, "ServerAppRaised", message, details)
    return _COMPLETED
