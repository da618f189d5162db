"""The client side: an agent that talks to the server, and executors that run the ClientApp."""
