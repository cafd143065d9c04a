"""The bank: the models of one round on disk, what they have in common, and what buyers get."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ipfl_flower.models.centres import CentreFile
from ipfl_flower.models.gram import Gram
from ipfl_flower.models.layout import Arrays, Layout, model_digest
from ipfl_flower.models.rows import RowFile
from ipfl_flower.models.stored import Reference, StoredModel


class ModelBank:
    """The models of a round, one row each.

    The bytes of a row are those that the institution sent; arithmetic works on blocks of columns,
    so the memory of the process does not grow with the number of models or their size (beside the
    model at hand, which is not copied). Not for use from several threads at once; it uses several
    itself.

    Parameters
    ----------
    path
        A fresh path for each round; an existing bank of the same market is continued, with the
        rows that were complete in it. The centres lie beside it, in ``path`` + ``.centres``.
    layout
        Of every model.
    rows
        Number of rows, m: one for each institution, active or not.
    reference
        θ_ref, what updates are differences to. A model is written to a file without a name beside
        the bank; banks of one market share a :class:`Reference`, which its owner closes.
    threads
        That share a pass over the bank; as many as the process has processors by default.

    Raises
    ------
    ModelError
        If `reference` is not a model of `layout`.
    BankError
        If the file exists and is damaged or another market's, or can't be made or opened.
    ValueError
        If `rows` or `threads` is less than 1.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        rows: int,
        reference: Mapping[str, NDArray[Any]] | Reference,
        *,
        threads: int | None = None,
    ) -> None:
        self._threads = len(os.sched_getaffinity(0)) if threads is None else threads
        if rows < 1 or self._threads < 1:
            raise ValueError(f"{rows} rows, {self._threads} threads: a bank needs one of each")
        self.path = path
        self.layout = layout
        self._own: Reference | None = None
        if not isinstance(reference, Reference):
            layout.check(reference)
            digest = model_digest(layout, reference)
        else:
            digest = reference.digest
        self._rows = RowFile(path, layout, rows, digest)
        if not isinstance(reference, Reference):
            try:
                reference = self._own = Reference(layout, reference, path.parent)
            except BaseException:
                self._rows.close()
                raise
        self._reference = reference
        self._gram = Gram(self._rows, layout, self._reference, rows, self._threads)
        self._centres = CentreFile(path.with_name(path.name + ".centres"), layout)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which rows hold a model, bool (m,)."""
        return self._rows.present

    def put(self, i: int, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Store a model durably as row i, in place of an earlier one, and fold it into the Gram.

        Returns
        -------
        str
            SHA-256, in hex, of the layout's digest and the row's bytes.

        Raises
        ------
        ModelError
            If it is not a model of this market; the bank is as before.
        BankError
            If it can't be written; row i is then absent.
        IndexError
            If there is no row i.
        """
        self._check_row(i)
        self.layout.check(arrays)
        digest = model_digest(self.layout, arrays)
        # A reply that comes twice costs nothing.
        if digest != self._rows.digests[i]:
            self._gram.changed(i)
            self._rows.write(i, self.layout.row(arrays), digest)
        self._gram.fold_complete()
        return digest

    def digest(self, i: int) -> str:
        """Return what :meth:`put` returned for row i, also after a restart.

        Raises
        ------
        BankError
            If row i is absent.
        """
        self._check_row(i)
        return self._rows.digest(i)

    def model(self, i: int) -> Arrays:
        """Return the model of row i, bit for bit what was put.

        Raises
        ------
        BankError
            If row i is absent, or its bytes were changed on the disk.
        """
        self._check_row(i)
        return self.layout.restore(self._rows.read(i))

    def verify(self, i: int) -> None:
        """Check that the bytes of row i are those that were put.

        Raises
        ------
        BankError
            Names the row if they are not, or if it is absent.
        """
        self._check_row(i)
        self._rows.read(i)

    def gram(self) -> NDArray[np.float64]:
        """Return V Vᵀ of the updates v_i = θ_i − θ_ref (mechanism.md §6).

        Its bits do not depend on the order in which models came, nor on the number of threads.

        Returns
        -------
        float64 (m, m)
            Exactly symmetric; as in float64 within 1e-7 ‖v_i‖ ‖v_j‖ (5e-7 where two updates of a
            large model are equal, or lie in a few hundred parameters alone). NaN in rows and
            columns that were never put; an update that float32 can't square has no finite square.

        Raises
        ------
        BankError
            If a row can't be read.
        """
        return self._gram.matrix()

    def write_centres(self, mixing: NDArray[np.float64]) -> list[int]:
        """Compute the prox-centres Θ̄ = Θ + M V in one pass, for :meth:`centre` (mechanism.md §6).

        Parameters
        ----------
        mixing : float64 (m, m)
            M; row i says what moves institution i's model. A row of zeros: no centre.

        Returns
        -------
        list of int
            The rows that have a centre now, ascending.

        Raises
        ------
        ValueError
            If `mixing` has another shape, is not finite, or gives an absent row a weight.
        BankError
            If a model can't be read or a centre can't be written.
        """
        present = self.present
        if mixing.shape != (len(present), len(present)):
            raise ValueError(f"mixing has shape {mixing.shape}, the bank {len(present)} rows")
        if not np.isfinite(mixing).all():
            raise ValueError("mixing holds a NaN or an infinity")
        weighted = mixing != 0.0
        absent = np.flatnonzero((weighted.any(axis=0) | weighted.any(axis=1)) & ~present)
        if len(absent):
            raise ValueError(f"mixing gives row {absent[0]} a weight, which holds no model")
        return self._centres.write(self._rows, self._reference, mixing, self._threads)

    def centre(self, i: int) -> StoredModel:
        """Return the centre of row i, rounded to the layout's dtypes; as often as needed.

        Its tensors are read as they are asked for, until the bank is closed or the next
        :meth:`write_centres`.

        Raises
        ------
        BankError
            If the last :meth:`write_centres` gave row i none.
        """
        return self._centres.model(i)

    def centres(self, mixing: NDArray[np.float64]) -> Iterator[tuple[int, Arrays]]:
        """Compute the centres as :meth:`write_centres` does, and yield them one at a time."""
        written = self.write_centres(mixing)
        return ((i, dict(self.centre(i))) for i in written)

    def close(self) -> None:
        """Close the files; the models stay on the disk, the centres are forgotten."""
        self._rows.close()
        self._centres.close()
        if self._own is not None:
            self._own.close()

    def delete(self) -> None:
        """Close and delete the files."""
        self.close()
        self._rows.path.unlink(missing_ok=True)
        self._centres.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_row(self, i: int) -> None:
        rows = len(self._rows.digests)
        if not 0 <= i < rows:
            raise IndexError(f"{self.path} has rows 0 to {rows - 1}, not {i}")
