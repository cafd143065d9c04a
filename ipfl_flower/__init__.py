"""A market for private models on Flower: iPFL (arXiv 2505.02462) as a deployment."""
