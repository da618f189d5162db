"""The server in a pod: its orders come in a file, and the run's end goes to Kubernetes."""
