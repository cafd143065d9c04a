"""One file a version; each leads there from the version before it."""
