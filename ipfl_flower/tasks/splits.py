"""How a data set is cut into institutions: pure functions on labels and seeded generators.

Every split is an exact partition: no sample is in two parts. A part is later cut at random into
training, validation and test data (:mod:`ipfl_flower.tasks.images`), so all three follow the same
distribution.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.tasks.errors import TaskError

Indices: TypeAlias = NDArray[np.int64]

# A Dirichlet draw that leaves a part with fewer samples is thrown away: the rule that papers on
# such splits share (Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022).
SMALLEST_PART = 10
_DRAWS_MAX = 200


def even(count: int, parts: int, rng: np.random.Generator) -> list[Indices]:
    """Cut ``count`` samples into parts of the same size (± 1) and the same distribution."""
    return [np.sort(part) for part in np.array_split(rng.permutation(count), parts)]


def dirichlet(
    labels: NDArray[np.int64], parts: int, beta: float, rng: np.random.Generator
) -> list[Indices]:
    """Share out each class by proportions drawn from a symmetric Dirichlet distribution.

    Parameters
    ----------
    labels
        Class of each sample, shape (n,).
    parts
        Number of parts.
    beta
        Concentration: towards 0 each class goes to one part, towards infinity all parts are alike.
    rng
        Source of all randomness.

    Returns
    -------
    list of int64 arrays
        Sorted sample numbers of each part; together each of 0 … n-1 exactly once.

    Raises
    ------
    TaskError
        No draw in 200 gave every part at least 10 samples.
    """
    for _ in range(_DRAWS_MAX):
        pieces: list[list[Indices]] = [[] for _ in range(parts)]
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            proportions = rng.dirichlet(np.full(parts, beta))
            cuts = np.rint(np.cumsum(proportions)[:-1] * len(members)).astype(np.int64)
            for part, piece in zip(pieces, np.split(members, cuts), strict=True):
                part.append(piece)
        shares = [np.sort(np.concatenate(part)) for part in pieces]
        if min(map(len, shares)) >= SMALLEST_PART:
            return shares
    raise TaskError(
        f"{len(labels)} samples can't be split over {parts} institutions by Dirichlet({beta:g}) "
        f"with {SMALLEST_PART} or more each: raise beta or lower institutions"
    )


def dirichlet_groups(
    labels: NDArray[np.int64], parts: int, groups: int, beta: float, rng: np.random.Generator
) -> list[Indices]:
    """Share out each class over groups as :func:`dirichlet` does, and evenly within a group.

    Parameters
    ----------
    labels
        Class of each sample, shape (n,).
    parts, groups
        Number of parts, and of groups: part i is of group i % groups.
    beta
        Concentration over the groups.
    rng
        Source of all randomness.

    Returns
    -------
    list of int64 arrays
        Sorted sample numbers of each part; together each of 0 … n-1 exactly once.

    Raises
    ------
    TaskError
        There are more groups than parts, or no draw gave every part at least 10 samples.
    """
    if groups > parts:
        raise TaskError(f"groups must be ≤ {parts}, the institutions, is {groups}")
    members = [range(group, parts, groups) for group in range(groups)]
    for _ in range(_DRAWS_MAX):
        shares: dict[int, Indices] = {}
        for group, share in zip(members, dirichlet(labels, groups, beta, rng), strict=True):
            pieces = even(len(share), len(group), rng)
            shares |= {part: share[piece] for part, piece in zip(group, pieces, strict=True)}
        if min(map(len, shares.values())) >= SMALLEST_PART:
            return [shares[part] for part in range(parts)]
    raise TaskError(
        f"{len(labels)} samples can't be split over {parts} institutions in {groups} groups by "
        f"Dirichlet({beta:g}) with {SMALLEST_PART} or more each: raise beta or lower institutions"
    )


def skew(
    labels: NDArray[np.int64], parts: int, classes: int, rng: np.random.Generator
) -> list[Indices]:
    """Give each part ``classes`` classes; the parts that hold a class share it equally.

    Classes are dealt so that all are held about equally often. When parts · classes is below the
    number of classes, those left over belong to nobody.

    Parameters
    ----------
    labels
        Class of each sample, shape (n,).
    parts
        Number of parts.
    classes
        Classes of each part.
    rng
        Source of all randomness.

    Returns
    -------
    list of int64 arrays
        Sorted sample numbers of each part; none is in two parts.

    Raises
    ------
    TaskError
        ``classes`` exceeds the number of classes in ``labels``.
    """
    known = np.unique(labels)
    if classes > len(known):
        raise TaskError(f"classes must be ≤ {len(known)}, the classes of this data, is {classes}")
    uses = np.zeros(len(known), np.int64)
    holders: list[list[int]] = [[] for _ in known]
    for part in range(parts):
        # The least used classes come first, and chance decides among equals.
        dealt = np.lexsort((rng.random(len(known)), uses))[:classes]
        uses[dealt] += 1
        for position in dealt:
            holders[position].append(part)
    pieces: list[list[Indices]] = [[] for _ in range(parts)]
    for label, owners in zip(known, holders, strict=True):
        members = rng.permutation(np.flatnonzero(labels == label))
        for owner, piece in zip(owners, np.array_split(members, max(len(owners), 1)), strict=False):
            pieces[owner].append(piece)
    return [np.sort(np.concatenate(part)) for part in pieces]


def label_permutations(groups: int, classes: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw what each hidden group calls the classes.

    Returns
    -------
    int64 array, shape (groups, classes)
        Row g maps a true label to group g's label. Group 0 keeps the true ones.
    """
    rows = [np.arange(classes), *(rng.permutation(classes) for _ in range(groups - 1))]
    return np.stack(rows).astype(np.int64)


def quarter_turns(images: NDArray[np.uint8], turns: int) -> NDArray[np.uint8]:
    """Rotate images, shape (n, height, width), by ``turns`` times 90° counter-clockwise."""
    return np.ascontiguousarray(np.rot90(images, turns, axes=(1, 2)))
