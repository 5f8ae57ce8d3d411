"""Interfaces: each turns people's input into `advance` and `decide`, and events into what they see."""
