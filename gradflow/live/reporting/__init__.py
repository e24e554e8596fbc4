"""Recorded runs as a self-contained page."""
