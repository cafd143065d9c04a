"""What experiment trackers are told of a market: figures by round, and where they go."""
