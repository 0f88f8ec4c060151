"""The wiring: one family of networks a file, read from top to bottom."""
