"""What changes a sample before it is trained on."""
