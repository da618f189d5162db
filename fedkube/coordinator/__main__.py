"""Starts the coordinator: ``python -m fedkube.coordinator``."""

from fedkube.ending import end_on_sigterm

if __name__ == "__main__":
    end_on_sigterm()
    from fedkube.coordinator.main import main

    main()
