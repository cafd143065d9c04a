"""The `ipfl` command."""
