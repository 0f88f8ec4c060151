"""Encoders: each token sees all others, and what is wanted is what a text means."""
