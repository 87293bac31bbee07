"""``train``: train a transformer, from scratch or further, with anything about it changed.

The recipe: prepare the data, build the model, train it with transformers' Trainer while the curve, samples and checkpoints are
recorded, and keep what came of it, ready to be probed, compared and intervened on by the run's id.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from layerwise.comparison.config import ItemsConfig
from layerwise.errors import UserError, check_seed
from layerwise.training.config import (
    ChangesConfig,
    CheckpointConfig,
    EvaluationConfig,
    FitConfig,
    StoppingConfig,
    TrainingConfig,
)
from layerwise.training.data_config import Characters, DataSettings, TaskData, TokenizerSettings
from layerwise.training.model_config import BuiltModel, PretrainedModel, TrainedModel
from layerwise.training.optimization_config import AdamW, Cosine, Optimizer, Schedule

if TYPE_CHECKING:
    from layerwise.tracking.run import Tracker
    from layerwise.training.prepared import PreparedData


@dataclass(frozen=True)
class TrainConfig:
    """A training.

    model: what is trained: the transformer made to be changed, any architecture of transformers from scratch, or a pretrained one.
    data: what it is trained on: a synthetic task, or texts.
    tokenizer: how the data becomes tokens; a pretrained model has its own.
    context: the most tokens of a row, and of what the model reads.
    optimizer: with its learning rate.
    schedule: how the learning rate goes.
    training: how long, and in what batches.
    evaluation: what is measured, and how often.
    questions: multiple-choice or question-answer sets that each evaluation scores, as the job compare reads them.
    stopping: when training ends before its time.
    checkpoints: what is kept on the way.
    changes: changes to the training itself: a loss or callback of one's own, frozen layers, corrupted inputs.
    seed: of the weights, the order of the data, dropout, and a task's samples.
    """

    model: TrainedModel = field(default_factory=BuiltModel)
    data: DataSettings = field(default_factory=TaskData)
    tokenizer: TokenizerSettings | None = None
    context: int = 64
    optimizer: Optimizer = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Cosine)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    questions: list[ItemsConfig] = field(default_factory=list)
    stopping: StoppingConfig = field(default_factory=StoppingConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    changes: ChangesConfig = field(default_factory=ChangesConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.context < 2:
            raise UserError(f"context must be at least 2 tokens, got {self.context}.")
        check_seed(self.seed)

    @property
    def fit(self) -> FitConfig:
        """What the training itself reads."""
        return FitConfig(**{one.name: getattr(self, one.name) for one in fields(FitConfig)})

    @property
    def tokens(self) -> TokenizerSettings:
        """The tokenizer: of a pretrained model its own, else characters, where none is named."""
        from layerwise.training.data_config import Pretrained

        if self.tokenizer is not None:
            return self.tokenizer
        return Pretrained(self.model.name) if isinstance(self.model, PretrainedModel) else Characters()


def run(config: TrainConfig, tracker: Tracker) -> None:
    """Train and record. Raises UserError for what the person can mend; Diverged, which is one, keeps the last good checkpoint."""
    from layerwise.jobs.train_record import recording
    from layerwise.models.quiet import quiet_transformers
    from layerwise.process import is_main
    from layerwise.training.build import build_model
    from layerwise.training.fit import fit
    from layerwise.training.prepared import prepare_data
    from layerwise.training.trainer import Diverged

    data = prepare_data(config.data, config.tokens, config.context, config.seed, quiet=not is_main())
    with quiet_transformers():
        model = build_model(config.model, data.tokenizer, config.context, config.seed)
    with recording(config, data, tracker) as recorded:
        if is_main() and tracker.alone:
            print(_plan(config, data, model), flush=True)
        try:
            trained = fit(model, data, config.fit, recorded.folder, recorded.listener, recorded.checkpoint)
        except Diverged as error:
            recorded.keep_last_good(error)
            raise
        if is_main():
            recorded.conclude(trained)


def _plan(config: TrainConfig, data: PreparedData, model: Any) -> str:
    """What is about to be done, and how much of it."""
    from layerwise.jobs.train_record import name_of_data, name_of_model
    from layerwise.process import together
    from layerwise.training.fit import planned_steps

    counts = data.report.parts.get("train", {})
    steps = planned_steps(config.fit, counts.get("rows"), together())
    samples = steps * config.training.batch_size * config.training.accumulation * together()
    parameters = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    some = "" if trained == parameters else f" ({trained / 1e6:,.3g} M of them trained)"
    lines = [f"note: {note}" for note in data.report.notes]
    epochs = f", {samples / counts['rows']:.3g} epochs" if counts.get("rows") else ""
    lines.append(
        f"train {name_of_model(config)} ({parameters / 1e6:,.3g} M parameters{some}) on {name_of_data(config)}: "
        f"{steps:,} steps, {samples:,} samples{epochs}"
    )
    if data.task is not None:
        lines.append(f"the task: {data.task.difficulty}")
    return "\n".join(lines)
