"""ClientApp that would work."""

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def query(msg: Message, context: Context) -> Message:
    """Return an empty reply."""
    return Message(RecordDict(), reply_to=msg)
