"""Benches that run without a network."""
