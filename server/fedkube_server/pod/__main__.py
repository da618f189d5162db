"""Starts the server of a pod: ``python -m fedkube_server.pod --folder RUN --orders FILE ...``."""

from fedkube.ending import end_on_sigterm

if __name__ == "__main__":
    # The pod goes and another takes its place: a run that merely moves has not ended.
    end_on_sigterm()
    from fedkube_server.pod.main import main

    main()
