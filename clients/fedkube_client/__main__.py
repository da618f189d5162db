"""Starts a worker: ``python -m fedkube_client --server HOST:PORT --name NAME ...``."""

from fedkube_client.main import main

if __name__ == "__main__":
    main()
