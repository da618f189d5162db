"""Starts a worker: ``python -m fedkube_client --server HOST:PORT --name NAME ...``."""

from fedkube.ending import end_on_sigterm

if __name__ == "__main__":
    end_on_sigterm()
    from fedkube_client.main import main

    main()
