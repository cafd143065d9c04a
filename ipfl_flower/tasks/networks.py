"""The networks that several image tasks train."""

from torch import Tensor, nn

from ipfl_flower.tasks.base import seeded


def lenet(channels: int, side: int, classes: int, *, seed: int) -> nn.Module:
    """Build the paper's CNN: 6 and 16 channels of 5×5, each max-pooled, then 120, 84, classes.

    Parameters
    ----------
    channels, side
        Of the images: inputs are (n, channels, side, side).
    classes
        Number of logits.
    seed
        Of the weights.
    """
    left = ((side - 4) // 2 - 4) // 2
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(channels, 6, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * left * left, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, classes),
        )


def strided_cnn(channels: int, side: int, classes: int, *, seed: int) -> nn.Module:
    """Build a CNN for quick runs: 16 and 32 channels of 5×5 and 3×3, each halving the side.

    Parameters
    ----------
    channels, side
        Of the images: inputs are (n, channels, side, side); side is a multiple of 4.
    classes
        Number of logits.
    seed
        Of the weights.
    """
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(channels, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (side // 4) ** 2, classes),
        )


def resnet20(classes: int, *, seed: int) -> nn.Module:
    """Build the ResNet-20 of He et al. (CVPR 2016, section 4.2), with group normalisation.

    Inputs are (n, 3, side, side) of any side. Groups of 8 channels are normalised instead of the
    batch: the running statistics of batch normalisation are no parameters that a step moves, and
    would take part in distances and averages between institutions whose images differ in style.
    That is known to hurt on just such data (Hsieh et al., "The Non-IID Data Quagmire", ICML 2020),
    and group normalisation is the usual answer.
    """
    with seeded(seed):
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False), _norm(16), nn.ReLU()]
        before = 16
        for width in (16, 32, 64):
            for block in range(3):
                stride = 2 if block == 0 and width > before else 1
                layers.append(_Residual(before, width, stride))
                before = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def _norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels // 8, channels)


class _Residual(nn.Module):
    """Two 3×3 convolutions around which the input passes; 1×1 where its shape changes."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False),
            _norm(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            _norm(width),
        )
        self.past = (
            nn.Identity()
            if before == width
            else nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), _norm(width))
        )

    def forward(self, values: Tensor) -> Tensor:
        """Return the block's output, (n, width, side / stride, side / stride)."""
        return nn.functional.relu(self.body(values) + self.past(values))
