"""What ``ipfl doctor`` looks at: small checks, each of which returns a verdict in one line."""
