"""What a run leaves on disk. Nothing here knows how a run is executed."""
