"""The Flower ServerApp of the operator."""

from .main import app

__all__ = ["app"]
