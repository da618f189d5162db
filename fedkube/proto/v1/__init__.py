"""Version 1 of the frames; the modules ending in _pb2 are generated from the .proto files."""
