"""The same model in torch, and data so small that a step of training is as good as none."""

import numpy as np
import torch
from torch import Tensor, nn

import bench_model

LEARNING_RATE = 0.2
SAMPLES = 4


class Network(nn.Module):
    """Scores a sample by the tensors' sums, weighed by the sample's features.

    The cheapest function whose gradient reaches every parameter: as after real training, the whole
    model is another one after a step. One pass over the memory forwards, one backwards.

    Parameters
    ----------
    megabytes : float
        Of the model.
    """

    def __init__(self, megabytes: float) -> None:
        super().__init__()
        for name, values in bench_model.arrays(megabytes).items():
            self.register_parameter(name, nn.Parameter(torch.from_numpy(values)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return two logits a sample; `inputs` has a feature for each tensor."""
        sums = torch.stack([p.sum() / p.numel() ** 0.5 for p in self.parameters()])
        score = inputs @ sums
        return torch.stack([score, -score], dim=1)


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return minus the mean logit of the right answers.

    Its gradient never fades: a model that stays as it was would travel for nothing, for Flower
    sends tensors that it has seen a moment ago only once.
    """
    return nn.functional.nll_loss(outputs, labels)


def samples(megabytes: float, institution: int) -> tuple[Tensor, Tensor]:
    """Return inputs and labels; institutions' data are alike, so that they trade."""
    features = len(bench_model.shapes(megabytes))
    common = np.random.default_rng(0).standard_normal(features)
    noise = np.random.default_rng([1, institution]).standard_normal((SAMPLES, features))
    inputs = torch.from_numpy((common + 0.3 * noise).astype(np.float32))
    return inputs, torch.zeros(SAMPLES, dtype=torch.int64)
