"""Training, evaluation, prediction: the only code that loops over data."""
