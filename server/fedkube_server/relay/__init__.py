"""A relay: to the server above it one worker with many hands, to the workers below it a server.

It serves no clients and knows no rounds: what comes from above is handed on, what comes from below
is added up and sent on as one sum.
"""
