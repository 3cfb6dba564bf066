"""Checkpoints, loading by name, published and packaged weights."""
