"""Pens and paper: colours, legends, tags, strokes, pages; knows no prediction."""
