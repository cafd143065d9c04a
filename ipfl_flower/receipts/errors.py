"""What can be wrong with a receipt or a key."""


class ReceiptError(ValueError):
    """A receipt or a key can't be read, or doesn't fit; the message is one line that names it."""
