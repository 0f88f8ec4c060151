"""Decoders: each token sees itself and those before it, and says which comes next."""
