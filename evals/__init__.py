"""Evals and measurements: what the agent does with words, and what it costs."""
