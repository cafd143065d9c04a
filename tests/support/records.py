"""A task of a user's own whose data is private: a file of numbers that only its owner can read."""

import csv
from pathlib import Path

import torch
from torch import nn

from ipfl_flower.tasks.base import LocalData, Split, Task, seeded

FEATURES = 4


class Records(Task):
    """Two classes of patients, told apart by a linear model.

    Parameters
    ----------
    file : str
        A CSV file with a patient's name, `FEATURES` numbers and a class in each row.
    """

    name = "records"
    institution = 0

    def __init__(self, file: str, seed: int = 0) -> None:
        self.file = Path(file)
        self.seed = seed

    def build_model(self, seed):
        with seeded(seed):
            return nn.Linear(FEATURES, 2)

    def data(self):
        with self.file.open(newline="", encoding="utf-8") as file:
            rows = [row[1:] for row in csv.reader(file)]
        inputs = torch.tensor([[float(value) for value in row[:-1]] for row in rows])
        labels = torch.tensor([int(row[-1]) for row in rows])
        parts = (slice(0, None, 3), slice(1, None, 3), slice(2, None, 3))
        return LocalData(*(Split(inputs[part], labels[part]) for part in parts))

    def loss(self, outputs, labels):
        return nn.functional.cross_entropy(outputs, labels)

    def accuracy(self, outputs, labels):
        return float((outputs.argmax(1) == labels).float().mean())
