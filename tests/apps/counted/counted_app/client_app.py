"""ClientApp whose updates depend on its calls so far."""

from tests.simulation.apps import client_app

app = client_app()
