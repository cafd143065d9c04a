"""Folders of parquet files as Hugging Face's hub has them, of real digits."""

import io

import numpy as np

from ipfl_flower.tasks import digits

FIRST = 40  # rows of the first of two splits


def real_digits(side, *, colours, count=60):
    """Return scikit-learn's digits of 8×8 pixels, scaled up: in colours, a tint for each.

    There are 1797; more than that begin anew, in other tints.
    """
    images, labels = digits.read_digits(digits.digits_file())
    chosen = np.arange(count) % len(images)
    scale = -(-side // 8)
    large = (15 * images[chosen]).repeat(scale, 1).repeat(scale, 2)[:, :side, :side]
    if colours:
        tints = np.random.default_rng(0).integers(1, 4, (count, 1, 1, 3), np.uint8)
        large = large[..., None] // tints
    return large, labels[chosen]


def encoded(picture):
    """Return a picture as the hub's parquet files hold it."""
    from PIL import Image  # noqa: PLC0415  # optional

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(folder, column, images, labels, **more):
    """Write a data set of two splits, as the hub has them; return its folder."""
    import datasets  # noqa: PLC0415  # optional

    kinds = {column: datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    table = {column: [encoded(image) for image in images], "label": list(map(int, labels))}
    whole = datasets.Dataset.from_dict(
        {**table, **more},
        datasets.Features({**kinds, **{name: datasets.Value("string") for name in more}}),
    )
    folder.mkdir(exist_ok=True)
    whole.select(range(FIRST)).to_parquet(folder / "train-00000-of-00001.parquet")
    whole.select(range(FIRST, len(images))).to_parquet(folder / "test-00000-of-00001.parquet")
    return str(folder)
