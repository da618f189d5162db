"""The embedded launcher: the same server and the same clients as a cluster's, as processes here."""
