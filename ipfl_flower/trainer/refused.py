"""Errors as gRPC status codes."""

import logging

import grpc
import torch

from ipfl_flower.receipts import ReceiptError
from ipfl_flower.tasks import TaskDataError, TaskError
from ipfl_flower.trainer.errors import (
    ArraysError,
    InstitutionError,
    LimitError,
    RequestError,
    StoreError,
    TrainingError,
)
from ipfl_flower.trainer_api import IncompatibleError, WireError

logger = logging.getLogger(__name__)

# FAILED_PRECONDITION: something at the institution must be put right before asking again.
_CODES: tuple[tuple[type[Exception], grpc.StatusCode], ...] = (
    (WireError, grpc.StatusCode.INVALID_ARGUMENT),
    (RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (ArraysError, grpc.StatusCode.INVALID_ARGUMENT),
    (IncompatibleError, grpc.StatusCode.FAILED_PRECONDITION),
    (InstitutionError, grpc.StatusCode.FAILED_PRECONDITION),
    (LimitError, grpc.StatusCode.FAILED_PRECONDITION),
    (ReceiptError, grpc.StatusCode.FAILED_PRECONDITION),
    (StoreError, grpc.StatusCode.FAILED_PRECONDITION),
    (TaskDataError, grpc.StatusCode.FAILED_PRECONDITION),
    (TaskError, grpc.StatusCode.FAILED_PRECONDITION),
    (TrainingError, grpc.StatusCode.FAILED_PRECONDITION),
)


class Refused(Exception):  # noqa: N818  # what happens to a request, and no fault of the trainer
    """A request is answered with an error.

    Attributes
    ----------
    code : grpc.StatusCode
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def refusal(error: Exception) -> Refused:
    """Return what the client is told of an error.

    Only messages of this project's own errors leave the machine: what others say may quote data.
    """
    if isinstance(error, Refused):
        return error
    for kind, code in _CODES:
        if isinstance(error, kind):
            return Refused(code, " ".join(str(error).split()))
    logger.error("a request failed", exc_info=error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Refused(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "out of memory: see the trainer's log; a smaller training.batch_size needs less",
        )
    return Refused(
        grpc.StatusCode.INTERNAL, f"{type(error).__name__}: see the trainer's log for the rest"
    )
