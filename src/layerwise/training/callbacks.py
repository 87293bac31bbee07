"""What happens beside the steps: curves are told, layers frozen, norms measured, training stopped in time."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import TrainerCallback

from layerwise.errors import UserError
from layerwise.models.architecture import find_stacks
from layerwise.progress import Progress
from layerwise.training.config import StoppingConfig

if TYPE_CHECKING:
    from layerwise.training.trainer import ModelTrainer

Tell = Callable[[Mapping[str, float], int], None]


class Curve(TrainerCallback):
    """Tells every line of the curve and every evaluation, with how far and how fast training is."""

    def __init__(self, trainer: ModelTrainer, tell: Tell, largest: bool) -> None:
        self.trainer, self.tell, self.largest = trainer, tell, largest
        self._bar: Progress | None = None
        self._before: tuple[float, int] | None = None
        self.parameters = parameter_counts(trainer.model)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._bar = Progress("train", state.max_steps, "step")
        self._bar.__enter__()
        self._bar.advance(state.global_step)
        if state.global_step == 0:
            self.tell(self.parameters, 0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.advance()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        told = {name: value for name, value in logs.items() if "/" in name}
        if "loss" in logs:
            told |= self._line(args, state, logs)
        self.tell(told, state.global_step)

    def _line(self, args: Any, state: Any, logs: Mapping[str, float]) -> dict[str, float]:
        trainer = self.trainer
        line = {"batch/loss": logs["loss"], "batch/learning_rate": logs["learning_rate"]}
        if "grad_norm" in logs:
            line["batch/gradient_norm"] = logs["grad_norm"]
        if trainer.accuracy is not None:
            line["batch/accuracy"] = trainer.accuracy
        tokens, seconds = state.num_input_tokens_seen, trainer.seconds
        line |= {
            "progress/seconds": seconds,
            "progress/tokens": float(tokens),
            "progress/samples": float(state.global_step * samples_of_a_step(args)),
            "progress/epochs": float(state.epoch or 0),
        }
        if self._before is not None and seconds > self._before[0]:
            line["progress/tokens_per_second"] = (tokens - self._before[1]) / (seconds - self._before[0])
        self._before = seconds, tokens
        if trainer.frozen:
            frozen = sum(weight.numel() for weight in trainer.frozen)
            line["parameters/active"] = self.parameters["parameters/active"] - frozen
        if self.largest:
            line["parameters/largest"] = max(
                float(weight.detach().abs().max()) for weight in trainer.model.parameters()
            )
        return line


def samples_of_a_step(args: Any) -> int:
    """Samples of one optimizer step, on all devices."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def parameter_counts(model: nn.Module) -> dict[str, float]:
    """``parameters/total``, ``parameters/trained``, and ``parameters/active``: those trained that one token passes through."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    config = model.config
    experts, used = getattr(config, "num_local_experts", 0) or 0, getattr(config, "num_experts_per_tok", 0) or 0
    idle = 0
    if experts and isinstance(experts, int):
        stacked = [
            weight for name, weight in model.named_parameters() if ".experts." in f".{name}" and weight.requires_grad
        ]
        idle = sum(weight.numel() for weight in stacked) * (experts - used) // experts
    total = sum(weight.numel() for weight in model.parameters())
    return {
        "parameters/total": float(total),
        "parameters/trained": float(trained),
        "parameters/active": float(trained - idle),
    }


class FrozenLayers(TrainerCallback):
    """In each step some layers, drawn anew, do not learn; which ones depends on the seed and the step alone."""

    def __init__(self, trainer: ModelTrainer, count: int, seed: int) -> None:
        self.trainer, self.count, self.seed = trainer, count, seed
        given: Any = trainer.model
        model: nn.Module = given.get_base_model() if hasattr(given, "get_base_model") else given
        self.layers = [
            model.get_submodule(stack.block(layer)) for stack in find_stacks(model) for layer in range(stack.n_layers)
        ]
        if count > len(self.layers):
            raise UserError(f"changes.freeze_layers {count}: the model has {len(self.layers)}.")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        drawn = random.Random(f"{self.seed} {state.global_step}").sample(range(len(self.layers)), self.count)
        self.trainer.frozen = [weight for layer in drawn for weight in self.layers[layer].parameters()]


class Norms(TrainerCallback):
    """Norms of each module's own weights, gradients (after clipping) and steps, every so many steps."""

    def __init__(self, tell: Tell, every: int) -> None:
        self.tell, self.every = tell, every
        self._before: dict[str, Tensor] = {}
        self._gradients: dict[str, float] = {}

    def _due(self, state: Any) -> bool:
        return bool(state.is_world_process_zero and (state.global_step + 1) % self.every == 0)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._due(state):
            self._before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
            gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
            self._gradients = _by_module("gradients", gradients)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._due(state):
            now = {name: weight.detach() for name, weight in model.named_parameters()}
            steps = {name: weight - self._before[name] for name, weight in now.items()}
            told = {**_by_module("weights", now), **self._gradients, **_by_module("steps", steps)}
            self.tell(told, state.global_step + 1)
            self._before, self._gradients = {}, {}


def _by_module(what: str, tensors: Mapping[str, Tensor]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, tensor in tensors.items():
        module = name.rpartition(".")[0] or name
        squares[module] = squares.get(module, 0.0) + float(tensor.float().square().sum())
    return {f"{what}/{module}": value**0.5 for module, value in squares.items()}


class Ending(TrainerCallback):
    """Stops in time, and has the last step told, evaluated and kept whatever step it is.

    ``reason``: why training ended before its time; '' where it did not.
    """

    def __init__(self, config: StoppingConfig) -> None:
        self.config, self.reason = config, ""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        enough = self.config.samples
        if enough is not None and state.global_step * samples_of_a_step(args) >= enough:
            self._stop(control, f"{enough:,} samples were seen")
        if control.should_training_stop or state.global_step >= state.max_steps:
            control.should_log = control.should_evaluate = control.should_save = True
        return control

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, float], **_: Any) -> Any:
        config = self.config
        best, since = self._best(state)
        waited = state.global_step - since
        samples = waited * samples_of_a_step(args)
        if config.exact_match is not None and metrics.get("val/exact_match", 0.0) >= config.exact_match:
            self._stop(control, f"{metrics['val/exact_match']:.1%} of answers are exact")
        elif config.patience_steps is not None and waited >= config.patience_steps:
            self._stop(control, f"no better validation loss than {best:.4f} for {waited:,} steps")
        elif config.patience_samples is not None and samples >= config.patience_samples:
            self._stop(control, f"no better validation loss than {best:.4f} for {samples:,} samples")
        if control.should_training_stop:
            control.should_save = True
        return control

    def _best(self, state: Any) -> tuple[float, int]:
        """The lowest validation loss and its step, read off the history that checkpoints keep."""
        best, step = float("inf"), 0
        for line in state.log_history:
            if line.get("eval_loss", float("inf")) < best - (self.config.improvement if best < float("inf") else 0):
                best, step = line["eval_loss"], line["step"]
        return best, step

    def _stop(self, control: Any, reason: str) -> None:
        control.should_training_stop, self.reason = True, reason
