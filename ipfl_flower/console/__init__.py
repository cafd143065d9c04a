"""The market's window: a web page and a JSON API, read from the ledger and from nothing else."""
