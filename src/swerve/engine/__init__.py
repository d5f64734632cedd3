"""Engines start and stop processes and say which have died."""
