"""What is found in an image: one file per kind of output, and one literal table of them."""
