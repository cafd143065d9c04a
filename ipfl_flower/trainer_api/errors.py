"""What can go wrong between a bridge and a trainer; each message is one line."""

import grpc


class TrainerApiError(RuntimeError):
    """A trainer could not be asked, or did not answer."""


class AddressError(TrainerApiError):
    """A trainer's address, or a file that its TLS needs, is wrong."""


class TrainerUnreachableError(TrainerApiError):
    """Nobody answers at the trainer's address, or the answer broke off."""


class TrainerRefusedError(TrainerApiError):
    """The trainer answered with an error.

    Attributes
    ----------
    code : grpc.StatusCode
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class IncompatibleError(TrainerApiError):
    """Bridge and trainer speak different protocols."""


class WireError(TrainerApiError):
    """What came over the wire is not what the protocol says."""
