"""What touches the disk and the network; knows no model."""
