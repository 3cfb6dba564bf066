"""The generator of labelled pictures."""
