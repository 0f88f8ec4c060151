"""Keras's own tests of its layers, run against ours: `python -m tests.conformance` or `make conformance`."""
