"""What the user holds: predictions, their pictures, JSON, COCO results, folders."""
