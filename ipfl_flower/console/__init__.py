"""What people and monitoring see of a market, all of it read from the ledger."""
