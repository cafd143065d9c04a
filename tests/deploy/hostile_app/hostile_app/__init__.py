"""An app that hunts for private data."""
