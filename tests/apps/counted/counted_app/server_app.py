"""ServerApp with one of several strategies, or a loop of its own."""

import hashlib
import json

import numpy as np
from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from tests.simulation import apps

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run it, and report the digest of the model and all else that came of it."""
    config = context.run_config
    apps.ROUNDS = int(config["num-server-rounds"])
    run = apps.APPS[str(config["what"])]
    result = run(grid, len(list(grid.get_node_ids())), int(config["size"]))
    arrays = result.pop("arrays")
    model = b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(arrays))
    values = {"checksum": hashlib.sha256(model).hexdigest(), "rest": json.dumps(result)}
    context.state["result"] = ConfigRecord(values)
    print("RESULT " + json.dumps(values), flush=True)
