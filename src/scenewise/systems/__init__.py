"""The systems, one file each, in a folder a task."""
