"""Training loops as runs of MLflow; they need the package mlflow-skinny or mlflow (the extra `mlflow`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xprompt.training.callbacks import MetricLogger, require_package

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


class MlflowRuns(MetricLogger):
    """Log every training loop as one run of MLflow, with its settings as parameters and a point an evaluation.

    A loop that raises, or is interrupted, is a failed run. The process's own active run, if it has one, is left alone.

    Args:
        experiment: its name; it is made where it does not exist.
        uri: a server, or "sqlite:///FILE"; None for what MLFLOW_TRACKING_URI or `mlflow.set_tracking_uri` says.
        tags: of every run, such as {"task": "rte"}.

    Raises `ConfigError` where MLflow is not installed.
    """

    def __init__(self, experiment: str = "xprompt", uri: str | Path | None = None, **tags: str) -> None:
        require_package("mlflow", "mlflow")
        self.experiment, self.uri, self.tags = experiment, None if uri is None else str(uri), tags
        self.client: MlflowClient | None = None
        self.run_id = ""

    def open(self, stage: str, settings: dict[str, Any]) -> None:
        from mlflow.tracking import MlflowClient  # it takes seconds to import

        self.client = MlflowClient(self.uri)
        found = self.client.get_experiment_by_name(self.experiment)
        experiment_id = self.client.create_experiment(self.experiment) if found is None else found.experiment_id
        self.run_id = self.client.create_run(experiment_id, tags=self.tags, run_name=stage).info.run_id
        for name, value in settings.items():
            self.client.log_param(self.run_id, name, value)

    def log(self, step: int, values: dict[str, float], when: float) -> None:
        assert self.client is not None
        for name, value in values.items():
            self.client.log_metric(self.run_id, name, value, timestamp=int(1000 * when), step=step)

    def close(self) -> None:
        if self.client is not None and self.run_id:
            self.client.set_terminated(self.run_id, "FAILED" if self.failed else "FINISHED")
            self.run_id = ""
