"""Parity with mergekit, which runs as an oracle in its own virtual environment."""
