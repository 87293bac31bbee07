"""Training, from a model and its data to a trained model: what to tell, where to keep it, and from where to go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, TrainerCallback

from layerwise.errors import UserError
from layerwise.models.model import LanguageModel
from layerwise.models.quiet import quiet_transformers
from layerwise.models.transformer import own_code
from layerwise.process import together
from layerwise.training.build import finished
from layerwise.training.callbacks import Curve, Ending, FrozenLayers, Norms
from layerwise.training.config import FitConfig
from layerwise.training.measuring import collate
from layerwise.training.optimization_config import Plateau
from layerwise.training.prepared import PreparedData
from layerwise.training.schedules import WarmUp
from layerwise.training.tokenizers import encode
from layerwise.training.trainer import ModelTrainer, arguments
from layerwise.training.writing import Written, answers, language_model, texts

EVALUATIONS = 10  # where it is not said how often


def _nothing(*_: Any) -> None:
    """Nobody listens."""


def _no_metrics(model: LanguageModel) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class Listener:
    """Who hears of a training while it runs; called in the main process alone.

    curve: metrics and their step. written: what the model wrote, and the step.
    checkpoint: folder of a whole checkpoint, its step and the metrics measured last.
    questions: further metrics of the model at an evaluation.
    """

    curve: Callable[[Mapping[str, float], int], None] = _nothing
    written: Callable[[list[Written], int], None] = _nothing
    checkpoint: Callable[[Path, int, Mapping[str, float]], None] = _nothing
    questions: Callable[[LanguageModel], Mapping[str, float]] = _no_metrics


@dataclass(frozen=True)
class Trained:
    """What came of it.

    model: in evaluation mode, on the CPU; adapters merged. metrics: of the last evaluation, or of the best where that was kept.
    steps: made in all. ended: why it ended before its time, or ''. test: metrics of the test sets.
    """

    model: PreTrainedModel
    metrics: dict[str, float]
    steps: int
    ended: str
    test: dict[str, float] = field(default_factory=dict)


def fit(
    model: PreTrainedModel,
    data: PreparedData,
    config: FitConfig,
    folder: Path,
    listener: Listener | None = None,
    resume: Path | None = None,
) -> Trained:
    """Train ``model`` on ``data``; checkpoints go to ``folder``, and ``resume`` names one of them to go on from.

    What is measured on the way does not change what is learned: random numbers are put back after each evaluation.

    Raises Diverged when the loss is not a number any more, UserError for a precision the device lacks, too few data for a step,
    code that cannot be loaded, and a checkpoint that cannot be written.
    """
    listener = listener or Listener()
    with quiet_transformers():
        trainer, ending = prepare_trainer(model, data, config, folder, listener, resume)
        trainer.begin_clock(resume)
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        if trainer.args.load_best_model_at_end and trainer.state.best_global_step:
            measured = _measured_at(trainer, trainer.state.best_global_step)
        else:
            measured = _measured_at(trainer, trainer.state.global_step)
        test = _test(trainer, data, config)
    kept = finished(trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False))
    return Trained(kept.to("cpu").eval(), measured, trainer.state.global_step, ending.reason, test)


def planned_steps(config: FitConfig, rows: int | None, processes: int = 1) -> int:
    """How many optimizer steps a training has. ``rows``: of the training data, None where nobody knows.

    Raises UserError where the steps must be given.
    """
    training = config.training
    if training.steps is not None:
        return training.steps
    if rows is None:
        raise UserError("data that is streamed has no known length: say how many training.steps there are.")
    batches = math.ceil(rows / (training.batch_size * processes))
    return max(1, math.ceil(training.epochs * math.ceil(batches / training.accumulation)))


def prepare_trainer(
    model: PreTrainedModel,
    data: PreparedData,
    config: FitConfig,
    folder: Path,
    listener: Listener,
    resume: Path | None = None,
) -> tuple[ModelTrainer, Ending]:
    """The Trainer that ``fit`` runs, for what must be done around its steps; and what says why it ended."""
    training, evaluation, checkpoints = config.training, config.evaluation, config.checkpoints
    _check_precision(config)
    streamed = isinstance(data.train, IterableDataset)
    steps = planned_steps(config, None if streamed else len(data.train), together())  # type: ignore[arg-type]
    every = evaluation.every or max(1, steps // EVALUATIONS)
    save = every if checkpoints.every is None else checkpoints.every
    _check_ends(config, data, every, save)
    for prompt in evaluation.prompts:
        encode(data.tokenizer, prompt)  # says what of it the tokenizer does not know
    args = arguments(
        folder,
        max_steps=steps if training.steps is not None else -1,
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=evaluation.batch_size or training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        max_grad_norm=training.clip,
        bf16=training.precision == "bf16",
        fp16=training.precision == "fp16",
        use_cpu=training.device == "cpu" or not torch.cuda.is_available(),
        torch_compile=training.compile,
        activation_checkpointing=training.activation_checkpointing,
        seed=config.seed,
        data_seed=config.seed,
        logging_strategy="steps",
        logging_steps=evaluation.log_every,
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=resume is None,
        save_strategy="steps" if save else "no",
        save_steps=save or 1,
        save_total_limit=checkpoints.keep,
        load_best_model_at_end=checkpoints.best,
    )
    pad_id = data.tokenizer.pad_token_id
    trainer = ModelTrainer(
        optimizer=config.optimizer,
        schedule=config.schedule,
        splits={
            "train": (data.train, evaluation.samples or len(data.validation)),  # type: ignore[arg-type]
            "val": (data.validation, evaluation.samples),
        },
        corrupt=config.changes.corrupt_inputs,
        further=partial(_further, data, config, listener),
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        data_collator=partial(collate, pad_id=pad_id),
        processing_class=data.tokenizer,
        compute_loss_func=None if config.changes.loss is None else _own(config.changes.loss),
    )
    ending = Ending(config.stopping)
    trainer.callback_handler.callbacks = [
        one for one in trainer.callback_handler.callbacks if type(one).__name__ != "PrinterCallback"
    ]
    for callback in _callbacks(trainer, config, listener, ending):
        trainer.add_callback(callback)
    return trainer, ending


def _callbacks(trainer: ModelTrainer, config: FitConfig, listener: Listener, ending: Ending) -> list[TrainerCallback]:
    found: list[TrainerCallback] = [Curve(trainer, listener.curve, config.evaluation.largest_parameter)]
    if isinstance(config.schedule, Plateau) and config.schedule.warmup_steps:
        found.append(WarmUp(config.schedule.warmup_steps))
    if config.changes.freeze_layers:
        found.append(FrozenLayers(trainer, config.changes.freeze_layers, config.seed))
    if config.evaluation.norms_every is not None:
        found.append(Norms(listener.curve, config.evaluation.norms_every))
    found.append(_Kept(trainer, listener))
    for path in config.changes.callbacks:
        made = _own(path)()
        if not isinstance(made, TrainerCallback):
            raise UserError(f"{path} is no training callback: derive it from transformers.TrainerCallback.")
        found.append(made)
    return [*found, ending]  # last, so that it sees who else ends the training


class _Kept(TrainerCallback):
    """Tells of every checkpoint, with what was measured last."""

    def __init__(self, trainer: ModelTrainer, listener: Listener) -> None:
        self.trainer, self.listener = trainer, listener

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.listener.checkpoint(folder, state.global_step, _measured_at(self.trainer, state.global_step))


def _measured_at(trainer: ModelTrainer, step: int) -> dict[str, float]:
    """The metrics of the last evaluation up to a step."""
    lines = [line for line in trainer.state.log_history if "eval_loss" in line and line["step"] <= step]
    return {name: value for name, value in lines[-1].items() if "/" in name} if lines else {}


def _further(
    data: PreparedData, config: FitConfig, listener: Listener, module: nn.Module, step: int
) -> dict[str, float]:
    """Exact match, questions, and texts to look at."""
    evaluation, was_training = config.evaluation, module.training
    model = language_model(module.eval(), data.tokenizer)
    metrics: dict[str, float] = {}
    written: list[Written] = []
    if data.task is not None and evaluation.answers:
        found = answers(model, data, "validation", evaluation.answers)
        metrics["val/exact_match"] = sum(bool(one.right) for one in found) / len(found)
        written = found[: evaluation.texts]
    if evaluation.texts and (data.task is None or evaluation.prompts):
        written += texts(model, data, evaluation, config.seed)
    metrics |= listener.questions(model)
    if written:
        listener.written(written, step)
    module.train(was_training)
    return metrics


def _test(trainer: ModelTrainer, data: PreparedData, config: FitConfig) -> dict[str, float]:
    """Loss, accuracy and exact match of every test set, on all of it."""
    if not data.test:
        return {}
    found = trainer.measured({name: (rows, None) for name, rows in data.test.items()})
    if data.task is not None and config.evaluation.answers and trainer.args.should_log:
        model = language_model(trainer.model.eval(), data.tokenizer)
        for name in data.test:
            right = [bool(one.right) for one in answers(model, data, name, 10 * config.evaluation.answers)]
            found[f"{name}/exact_match"] = sum(right) / len(right)
    return found


def _check_precision(config: FitConfig) -> None:
    on_cpu = config.training.device == "cpu" or not torch.cuda.is_available()
    if config.training.precision == "fp16" and on_cpu:
        raise UserError(
            "training.precision fp16 needs a GPU: its gradients are scaled there. On the CPU take bf16 or fp32."
        )


def _check_ends(config: FitConfig, data: PreparedData, every: int, save: int) -> None:
    """Raises UserError for an end that cannot come: the best of no checkpoints, exact answers that nobody asks for."""
    if config.checkpoints.best and (not save or save % every):
        raise UserError(
            f"checkpoints.best needs a checkpoint at evaluations: checkpoints.every {save} is no multiple of {every} steps."
        )
    if config.stopping.exact_match is not None and (data.task is None or not config.evaluation.answers):
        what = "texts have no answers that could be exact" if data.task is None else "evaluation.answers is 0"
        raise UserError(f"stopping.exact_match would never be reached: {what}.")


def _own(path: str) -> Any:
    """A function or class in a file of a person's own."""
    home = own_code.split(path)[0]
    return own_code.find(path, own_code.read(home) if home.endswith(".py") else None)
