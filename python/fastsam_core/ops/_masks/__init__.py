"""Full-size masks from low-resolution logits, and removal of small regions from masks."""
