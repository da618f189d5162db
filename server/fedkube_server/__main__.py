"""Starts the server: ``python -m fedkube_server --folder RUN --tls DIR``."""

from fedkube_server.main import main

if __name__ == "__main__":
    main()
