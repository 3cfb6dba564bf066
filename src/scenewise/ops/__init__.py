"""Geometry and algorithms on tensors."""
