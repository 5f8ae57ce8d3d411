"""Measurements of the agent; nothing here ships with it."""
