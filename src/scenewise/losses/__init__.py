"""Loss functions, by kind."""
