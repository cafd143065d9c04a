"""MLflow runs: one for the market, and below it one for each institution."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.tracking.figures import Institution, Market, Point
from ipfl_flower.logs import short

DATABASE: Final = "mlflow.db"
KEY: Final = "ipfl.key"
"""The tag by which a run is found again."""

VALUE_LENGTH_MAX: Final = 500
# MLflow reports its use to its makers, and sets up logging of its own, unless it is told not to
# before it is imported.
SILENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_CONFIGURE_LOGGING": "false",
}


class MlflowTracker:
    """Writes runs to a tracking server, or a database in a folder.

    Parameters
    ----------
    where : Path or str
        A folder, for an SQLite database in it, or the URI of a tracking server or database.
    experiment : str
        Whose runs they become; made when missing.

    Raises
    ------
    LaunchError
        If mlflow-skinny is not installed, or the store can't be reached or refuses.
    """

    def __init__(self, where: Path | str, experiment: str) -> None:
        self._mlflow = _imported()
        artifacts = None
        if isinstance(where, Path):
            try:
                where.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LaunchError(
                    f"{where} can't be made ({error.strerror}): name another"
                ) from error
            folder = where.resolve()
            uri, artifacts = f"sqlite:///{folder / DATABASE}", (folder / "artifacts").as_uri()
            self.place = f"{uri} (mlflow ui --backend-store-uri {uri})"
        else:
            uri, self.place = where, _without_password(where)
        with self._saying():
            self._client = self._mlflow.MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            self._experiment: str = (
                self._client.create_experiment(experiment, artifact_location=artifacts)
                if found is None
                else found.experiment_id
            )
        self._runs: dict[tuple[str, int | None], str] = {}
        self._known: dict[tuple[str, str], set[int]] = {}

    def write(self, market: Market, whose: Institution | None, point: Point) -> None:
        """Write what is missing of a round's figures, in one batch."""
        with self._saying():
            run = self._run(market, whose)
            missing = {
                name: value
                for name, value in point.values.items()
                if point.round not in self._steps(run, name)
            }
            if not missing:
                return
            entity, at_ms = self._mlflow.entities.Metric, int(point.at * 1000)
            batch = [entity(name, value, at_ms, point.round) for name, value in missing.items()]
            self._client.log_batch(run, metrics=batch)
        for name in missing:
            self._steps(run, name).add(point.round)

    def flush(self, *, finished: bool) -> None:
        """Say of all runs whether the market goes on."""
        status = "FINISHED" if finished else "RUNNING"
        with self._saying():
            for run in self._runs.values():
                if self._client.get_run(run).info.status == status:
                    continue
                if finished:
                    self._client.set_terminated(run, status)
                else:
                    self._client.update_run(run, status)

    def close(self) -> None:
        """There is nothing to close."""

    def _run(self, market: Market, whose: Institution | None) -> str:
        """Find a run again, or create it."""
        place = (market.id, None if whose is None else whose.id)
        if place not in self._runs:
            key = f"{market.id}/{'market' if whose is None else whose.id}"
            found = self._client.search_runs(
                [self._experiment], f"tags.`{KEY}` = '{key}'", max_results=1
            )
            self._runs[place] = found[0].info.run_id if found else self._created(market, whose, key)
        return self._runs[place]

    def _created(self, market: Market, whose: Institution | None, key: str) -> str:
        tags = {KEY: key, "ipfl.market": market.id}
        if whose is not None:
            tags |= {
                "ipfl.institution": whose.name,
                "mlflow.parentRunId": self._run(market, None),
            }
        created = self._client.create_run(
            self._experiment,
            start_time=int(market.began_at * 1000),
            tags=tags,
            run_name=f"market {short(market.id)}" if whose is None else whose.name,
        )
        run: str = created.info.run_id
        if whose is None:
            entity = self._mlflow.entities.Param
            given = [
                entity(name, str(value)[:VALUE_LENGTH_MAX])
                for name, value in market.settings.items()
            ]
            self._client.log_batch(run, params=given)
        return run

    def _steps(self, run: str, name: str) -> set[int]:
        """Return the rounds of which a run has a figure."""
        if (run, name) not in self._known:
            history = self._client.get_metric_history(run, name)
            self._known[run, name] = {metric.step for metric in history}
        return self._known[run, name]

    @contextmanager
    def _saying(self) -> Iterator[None]:
        try:
            yield
        except self._mlflow.exceptions.MlflowException as error:
            raise LaunchError(f"MLflow at {self.place}: {' '.join(str(error).split())}") from error


def _without_password(uri: str) -> str:
    return re.sub(r"(?<=//)[^/]*@", "", uri, count=1)


def _imported() -> Any:
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow  # noqa: PLC0415  # an extra
        import mlflow.tracking  # noqa: PLC0415
    except ImportError as error:
        raise LaunchError(
            f"mlflow is not installed ({error}): pip install 'ipfl-flower[mlflow]'"
        ) from error
    return mlflow
