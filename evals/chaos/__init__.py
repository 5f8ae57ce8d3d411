"""Processes that are killed with -9 at named moments and at random ones, and what is left of their promises."""
