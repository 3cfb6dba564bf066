"""What a person holds: predictions, their pictures, JSON, COCO results, folders."""
