"""The methods that the market is compared with, one a file, on the same institutions and steps."""
