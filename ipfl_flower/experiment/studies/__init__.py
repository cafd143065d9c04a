"""The paper's studies (mechanism.md §9), one a file: each returns a `finding.Finding`."""
