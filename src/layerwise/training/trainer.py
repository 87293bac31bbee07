"""transformers' Trainer as it is used here: our optimizers and schedules, token-weighted evaluation, checkpoints that are whole.

No training loop lives here: what a step is, accumulation, precision and resuming are transformers' and accelerate's.
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from layerwise.errors import UserError
from layerwise.training.measuring import hits, predict_tokens
from layerwise.training.optimization_config import Optimizer, Schedule
from layerwise.training.optimizers import build_optimizer
from layerwise.training.schedules import build_schedule

Splits = Mapping[str, tuple[Dataset[Any], int | None]]
PROGRESS_FILE = "progress.json"
_STATE_FILE = "trainer_state.json"  # the last file that a checkpoint gets


class Diverged(UserError):
    """The loss or a weight is not a number any more. ``checkpoint``: the last good one, or None; ``step``: when."""

    def __init__(self, what: str, step: int, checkpoint: Path | None) -> None:
        kept = f"The last good checkpoint is kept: {checkpoint}." if checkpoint else "There is no checkpoint before it."
        super().__init__(
            f"training diverged: {what} at step {step}, and it was stopped.\n{kept}\n"
            "Lower optimizer.learning_rate, warm up for longer, or clip the gradient (training.clip)."
        )
        self.step, self.checkpoint = step, checkpoint


class ModelTrainer(Trainer):
    """A Trainer of a language model.

    Args:
        optimizer, schedule: their configs.
        splits: what is evaluated, by the name its metrics get (``train``, ``val``), and how many of its first rows (none: all);
            the schedule and stopping go by ``val``.
        corrupt: share of the input tokens replaced by random ones in training.
        further: called after each evaluation with the model, returns metrics of its own (exact match, questions).
        train_args: of transformers' Trainer.

    Attributes:
        seconds: how long has been trained, interruptions left out.
        accuracy: of the last step whose accuracy was asked for (``logging_steps``).
    """

    def __init__(
        self,
        *,
        optimizer: Optimizer,
        schedule: Schedule,
        splits: Splits,
        corrupt: float,
        further: Callable[[nn.Module, int], Mapping[str, float]],
        **train_args: Any,
    ) -> None:
        self.optimizer_config, self.schedule_config = optimizer, schedule
        self.splits, self.corrupt, self.further = splits, corrupt, further
        self.seconds, self._since = 0.0, time.monotonic()
        self.frozen: list[nn.Parameter] = []  # whose gradients a callback wants gone in this step
        self.accuracy: float | None = None
        self._tokens: Tensor | int = 0
        self._right: list[tuple[Tensor, Tensor]] = []
        self.optimizer: Any
        self.lr_scheduler: Any
        self.control: Any
        super().__init__(**train_args)

    # What a step is made of

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained = self.model if model is None else model
            self.optimizer = build_optimizer(self.optimizer_config, trained, self.get_decay_parameter_names(trained))
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        if self.lr_scheduler is None:
            self.lr_scheduler = build_schedule(self.schedule_config, optimizer or self.optimizer, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        for weight in self.frozen:
            weight.grad = None
        return loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        labels = inputs["labels"]
        if self.corrupt:
            inputs = {**inputs, "input_ids": self._corrupted(inputs["input_ids"])}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self._logs_this_step():
            with torch.no_grad():
                self._right.append(hits(outputs.logits, labels))
        return (loss, outputs) if return_outputs else loss

    def _logs_this_step(self) -> bool:
        step = self.state.global_step + 1
        return step == 1 or step % int(self.args.logging_steps) == 0 or step >= self.state.max_steps

    def _corrupted(self, ids: Tensor) -> Tensor:
        """Each token with the probability ``corrupt`` another one, drawn evenly from the vocabulary."""
        size: int = self.model.get_input_embeddings().weight.shape[0]
        chosen = torch.rand(ids.shape, device=ids.device) < self.corrupt
        return torch.where(chosen, torch.randint_like(ids, size), ids)

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Not counted: transformers goes through all parameters for it in every step, and nothing here reads it."""
        return 0

    def _track_num_input_tokens(self, inputs: Mapping[str, Any]) -> None:
        """Counted on the device and read where it is reported, so that no step waits for it."""
        mask = inputs.get("attention_mask")
        self._tokens = self._tokens + (inputs["input_ids"].numel() if mask is None else mask.sum())

    def _read_counts(self) -> None:
        counts = [torch.as_tensor(self._tokens, device=self.args.device, dtype=torch.float64)]
        for place in (0, 1):
            found = [pair[place].double() for pair in self._right]
            counts.append(torch.stack(found).sum() if found else torch.zeros_like(counts[0]))
        tokens, right, counted = self.accelerator.reduce(torch.stack(counts), "sum").tolist()
        self.state.num_input_tokens_seen += int(tokens)
        self.accuracy = right / counted if counted else None
        self._tokens, self._right = 0, []
        now = time.monotonic()
        self.seconds, self._since = self.seconds + now - self._since, now

    # Telling and measuring

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Raises Diverged for a loss that is not a number."""
        self._read_counts()
        loss = logs.get("loss")
        if loss is not None and not _finite(loss):
            raise Diverged(f"the loss became {loss}", self.state.global_step, self.last_checkpoint())
        super().log(logs)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss and accuracy of every split, ``val/loss`` as ``eval_loss`` too, and what ``further`` finds."""
        self._read_counts()
        with torch.random.fork_rng(devices=[self.args.device] if self.args.device.type == "cuda" else []):
            metrics = self.measured(self.splits)
            if self.args.should_log:
                metrics |= self.further(self.model, self.state.global_step)
            [metrics] = broadcast_object_list([metrics])  # every process must come to the same end
        metrics["eval_loss"] = metrics["val/loss"]
        self._since = time.monotonic()  # evaluations are not training
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measured(self, splits: Splits) -> dict[str, float]:
        """``name/loss`` (nats a token) and ``name/accuracy`` of datasets, over as many of their first rows as is said."""
        processes = self.accelerator.state
        metrics: dict[str, float] = {}
        for name, (dataset, limit) in splits.items():
            found = predict_tokens(
                self.model, dataset, batch_size=self.args.eval_batch_size, pad_id=self.processing_class.pad_token_id,
                device=self.args.device, limit=limit, share=(processes.process_index, processes.num_processes),
            )  # fmt: skip
            loss, right, tokens = self.accelerator.reduce(found, "sum").tolist()
            if tokens:
                metrics |= {f"{name}/loss": loss / tokens, f"{name}/accuracy": right / tokens}
        return metrics

    # Checkpoints

    def last_checkpoint(self) -> Path | None:
        """The last whole checkpoint of this training's folder."""
        return last_checkpoint(Path(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Raises Diverged for weights that are not numbers, and UserError where it cannot be written; no half of one stays."""
        step = self.state.global_step
        if not all(bool(torch.isfinite(weight).all()) for weight in self.model.parameters()):
            raise Diverged("a weight became not a number", step, self.last_checkpoint())
        self._read_counts()
        before, folder = self.last_checkpoint(), Path(self.args.output_dir) / f"checkpoint-{step}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / PROGRESS_FILE).write_text(json.dumps({"seconds": self.seconds}), encoding="utf-8")
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not _of_disk(error):
                raise
            shutil.rmtree(folder, ignore_errors=True)
            kept = f"The one before, {before}, is whole" if before else "There is none before it"
            raise UserError(
                f"checkpoint {folder} could not be written at step {step}: {_reason(error)}.\n"
                f"{kept}: make room and give the same command again to go on from there."
            ) from error

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)  # a pickle

    def begin_clock(self, checkpoint: Path | None) -> None:
        """Go on with the seconds of a checkpoint, or begin with none."""
        if checkpoint is not None:
            self.seconds = json.loads((checkpoint / PROGRESS_FILE).read_text(encoding="utf-8"))["seconds"]
        self._since = time.monotonic()


def last_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint in a folder: one whose last file is there; what was being written when it was killed is removed."""
    while folder.is_dir() and (found := get_last_checkpoint(str(folder))) is not None:
        try:
            json.loads((Path(found) / _STATE_FILE).read_text(encoding="utf-8"))
            return Path(found)
        except (OSError, ValueError):
            shutil.rmtree(found, ignore_errors=True)
    return None


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _of_disk(error: Exception) -> bool:
    """torch and safetensors report a failed write as an error of their own."""
    return isinstance(error, OSError | SafetensorError) or "write" in str(error).lower()


def _reason(error: Exception) -> str:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "the disk is full" if full else " ".join(str(error).split())[:200]


def arguments(folder: Path, **values: Any) -> TrainingArguments:
    """transformers' arguments with what holds for all trainings here: nothing reported elsewhere, no bars, no filtering of NaN."""
    return TrainingArguments(
        output_dir=str(folder), report_to="none", disable_tqdm=True, log_level="error", logging_first_step=True,
        logging_nan_inf_filter=False, remove_unused_columns=False, include_num_input_tokens_seen="all",
        metric_for_best_model="eval_loss", greater_is_better=False, dataloader_pin_memory=torch.cuda.is_available(),
        **values,
    )  # fmt: skip
