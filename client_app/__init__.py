"""The Flower ClientApp of an institution."""

from .main import app

__all__ = ["app"]
