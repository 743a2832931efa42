"""Training loops as runs of Weights & Biases; they need the package wandb (the extra `wandb`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xprompt.training.callbacks import MetricLogger, require_package

if TYPE_CHECKING:
    import wandb


class WandbRuns(MetricLogger):
    """Log every training loop as one run of Weights & Biases, with its settings and a point an evaluation.

    A loop that raises, or is interrupted, is a failed run.

    Args:
        project: its name.
        options: of `wandb.init`: `mode="offline"` asks for no account and no network, and `wandb sync` sends it later;
            `dir`, `group`, `tags`.

    Raises `ConfigError` where wandb is not installed.
    """

    def __init__(self, project: str = "xprompt", **options: Any) -> None:
        require_package("wandb", "wandb")
        self.project, self.options = project, options
        self.run: wandb.Run | None = None

    def open(self, stage: str, settings: dict[str, Any]) -> None:
        import wandb  # it takes seconds to import

        options = {"project": self.project, "name": stage, "reinit": "create_new"} | self.options
        self.run = wandb.init(config=settings, **options)

    def log(self, step: int, values: dict[str, float], when: float) -> None:
        assert self.run is not None
        self.run.log(values, step=step)  # those of one step are put together

    def close(self) -> None:
        if self.run is not None:
            self.run.finish(exit_code=int(self.failed))
            self.run = None
