"""Certificates: who may talk to whom. The only package that knows cryptography."""
