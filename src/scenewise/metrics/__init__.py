"""Metrics, by kind; each equal to the field's reference evaluator."""
