"""Training: what a step is, what it may not depend on, how it ends, and how it goes on."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from layerwise.errors import UserError
from layerwise.training.config import (
    ChangesConfig,
    CheckpointConfig,
    EvaluationConfig,
    FitConfig,
    StoppingConfig,
    TrainingConfig,
)
from layerwise.training.fit import Listener, fit, prepare_trainer
from layerwise.training.measuring import predict_tokens
from layerwise.training.model_config import BuiltModel
from layerwise.training.optimization_config import AdamW, Constant, Cosine, Muon, Plateau
from layerwise.training.prepared import PreparedData
from layerwise.training.trainer import Diverged, last_checkpoint

from .conftest import SMALL, settings, small_model

DROPPING = replace(SMALL, dropout=0.2)


class Curves:
    """Every metric that was told, by name and step."""

    def __init__(self) -> None:
        self.values: dict[str, dict[int, float]] = {}

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            assert step not in self.values.setdefault(name, {}) or name == "batch/loss", f"{name} told twice at {step}"
            self.values[name][step] = value


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], within: float = 0.0) -> bool:
    return all(bool((one[name] - other[name]).abs().max() <= within) for name in one)


def trained(data: PreparedData, config: FitConfig, folder: Path, model: BuiltModel = SMALL, **options: Any) -> Any:
    return fit(small_model(data, model), data, config, folder, **options)


def test_training_lowers_the_loss(copying: PreparedData, folder: Path) -> None:
    curves = Curves()
    config = settings(120, optimizer=AdamW(learning_rate=1e-2))
    result = trained(copying, config, folder, listener=Listener(curve=curves))
    assert curves.values["val/loss"][120] < 0.75 * curves.values["val/loss"][0]
    assert result.metrics["val/loss"] == curves.values["val/loss"][120]
    assert result.test["test/loss"] < 2
    assert not result.model.training


def test_batches_of_an_accumulated_step_count_by_their_tokens(copying: PreparedData, folder: Path) -> None:
    """Four batches of 4 are one of 16 in every weight, though each holds another number of tokens (the mean of means is not the mean)."""
    sizes = {4: 4, 16: 1}
    found = [
        trained(
            copying,
            settings(training=TrainingConfig(steps=6, batch_size=size, accumulation=times, device="cpu")),
            folder / str(size),
        )
        for size, times in sizes.items()
    ]
    assert same(weights(found[0].model), weights(found[1].model), within=2e-5)
    assert not same(weights(found[0].model), weights(small_model(copying)), within=1e-3)


@pytest.mark.parametrize("optimizer", [AdamW(), Muon()], ids=["adamw", "muon"])
def test_going_on_from_a_checkpoint_is_never_having_stopped(
    copying: PreparedData, folder: Path, optimizer: Any
) -> None:
    config = settings(
        30,  # more than an epoch of 25 batches
        optimizer=optimizer,
        schedule=Cosine(warmup_steps=4),
        evaluation=EvaluationConfig(every=10, answers=4, texts=2, log_every=1),
        checkpoints=CheckpointConfig(every=9, keep=9),
        changes=ChangesConfig(freeze_layers=1, corrupt_inputs=0.1),
    )
    whole, rest = Curves(), Curves()
    uninterrupted = trained(copying, config, folder, DROPPING, listener=Listener(curve=whole))
    for step in (9, 27):
        rest.values.clear()
        resumed = trained(
            copying, config, folder, DROPPING, listener=Listener(curve=rest), resume=folder / f"checkpoint-{step}"
        )
        assert same(weights(uninterrupted.model), weights(resumed.model))
        for name in ("batch/loss", "batch/accuracy", "batch/learning_rate", "val/loss", "progress/tokens"):
            assert rest.values[name] == {at: value for at, value in whole.values[name].items() if at > step}


def test_looking_does_not_change_what_is_learned(copying: PreparedData, folder: Path) -> None:
    often = settings(evaluation=EvaluationConfig(every=1, answers=3, texts=3, log_every=1, norms_every=1))
    one, other = (
        trained(copying, config, folder / str(place), DROPPING) for place, config in enumerate((settings(), often))
    )
    assert same(weights(one.model), weights(other.model))


def test_the_loss_of_a_batch_is_its_mean_over_counted_tokens(copying: PreparedData, folder: Path) -> None:
    """The first value of the curve, from the batch alone: all samples in one."""
    curves = Curves()
    config = settings(1, training=TrainingConfig(steps=1, batch_size=len(copying.train), device="cpu"))
    trained(copying, config, folder, listener=Listener(curve=curves))
    model = small_model(copying).eval()
    losses, right = [], []
    for place in range(len(copying.train)):
        row = copying.train[place]
        log_p = model(row["input_ids"][None]).logits[0, :-1].log_softmax(-1)
        for position, target in enumerate(row["labels"][1:].tolist()):
            if target != -100:
                losses.append(-log_p[position, target].item())
                right.append(int(log_p[position].argmax()) == target)
    assert curves.values["batch/loss"][1] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert curves.values["batch/accuracy"][1] == pytest.approx(sum(right) / len(right))


def test_layers_drawn_anew_in_each_step_do_not_learn(copying: PreparedData, folder: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = [weights(small_model(copying))]

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            seen.append(weights(model))

    frozen = []
    config = settings(6, optimizer=AdamW(weight_decay=0.1), schedule=Constant(), changes=ChangesConfig(freeze_layers=1))
    _with_callback(copying, config, folder, Watch())
    for before, after in pairwise(seen):
        still = {
            layer
            for layer in "01"
            if all(torch.equal(before[name], after[name]) for name in before if f"blocks.{layer}." in name)
        }
        assert len(still) == 1
        frozen += still
        assert not torch.equal(before["body.token_embedding.weight"], after["body.token_embedding.weight"])
    assert set(frozen) == {"0", "1"}


def _with_callback(data: PreparedData, config: FitConfig, folder: Path, callback: TrainerCallback) -> None:
    trainer, _ = prepare_trainer(small_model(data), data, config, folder, Listener())
    trainer.add_callback(callback)
    trainer.train()


def test_inputs_are_corrupted_and_targets_are_not(copying: PreparedData, folder: Path) -> None:
    source = folder.parent / "spy.py"
    source.write_text(
        "from layerwise.training.losses import cross_entropy\n"
        "seen = []\n"
        "def loss(outputs, labels, num_items_in_batch=None):\n"
        "    seen.append(labels)\n"
        "    return cross_entropy(outputs, labels, num_items_in_batch)\n"
    )
    losses = {}
    for share in (0.0, 0.9):
        curves = Curves()
        config = settings(30, changes=ChangesConfig(corrupt_inputs=share, loss=f"{source}:loss"), optimizer=AdamW(1e-2))
        trained(copying, config, folder / str(share), listener=Listener(curve=curves))
        losses[share] = curves.values
    import sys

    [module] = [
        module for name, module in sys.modules.items() if name.startswith("layerwise_idea_") and hasattr(module, "seen")
    ]
    half = len(module.seen) // 2
    assert all(torch.equal(one, other) for one, other in zip(module.seen[:half], module.seen[half:], strict=True))
    assert losses[0.9]["batch/loss"][30] > losses[0.0]["batch/loss"][30] + 0.05
    assert losses[0.9]["val/loss"][0] == losses[0.0]["val/loss"][0]  # what is evaluated is not corrupted


def test_a_loss_of_ones_own_that_is_the_default_trains_the_same(copying: PreparedData, folder: Path) -> None:
    config = settings(training=TrainingConfig(steps=4, batch_size=4, accumulation=3, device="cpu"))
    own = replace(config, changes=ChangesConfig(loss="layerwise.training.losses.cross_entropy"))
    one, other = (trained(copying, item, folder / str(place)) for place, item in enumerate((config, own)))
    assert same(weights(one.model), weights(other.model), within=1e-6)


def test_callbacks_of_ones_own(copying: PreparedData, folder: Path) -> None:
    source = folder.parent / "mine.py"
    source.write_text(
        "from transformers import TrainerCallback\n"
        "class Stop(TrainerCallback):\n"
        "    def on_step_end(self, args, state, control, **_):\n"
        "        control.should_training_stop = state.global_step == 3\n"
        "class Nothing: pass\n"
    )
    result = trained(copying, settings(changes=ChangesConfig(callbacks=[f"{source}:Stop"])), folder)
    assert result.steps == 3
    with pytest.raises(UserError, match="no training callback"):
        trained(copying, settings(changes=ChangesConfig(callbacks=[f"{source}:Nothing"])), folder)
    with pytest.raises(UserError, match=r"no function or class 'Stopp'\. Did you mean 'Stop'"):
        trained(copying, settings(changes=ChangesConfig(callbacks=[f"{source}:Stopp"])), folder)


def test_patience_ends_a_training_that_gets_no_better(copying: PreparedData, folder: Path) -> None:
    still = AdamW(learning_rate=1e-12)
    evaluation = EvaluationConfig(every=2, answers=0, texts=0)
    for stopping, steps in (
        (StoppingConfig(patience_steps=5, improvement=1e-3), 6),
        (StoppingConfig(patience_samples=8 * 4, improvement=1e-3), 4),
        (StoppingConfig(samples=8 * 7), 7),
    ):
        config = settings(40, optimizer=still, evaluation=evaluation, stopping=stopping)
        result = trained(copying, config, folder / str(steps))
        assert result.steps == steps
        assert result.ended


def test_the_best_weights_are_kept_where_that_is_asked_for(copying: PreparedData, folder: Path) -> None:
    source = folder.parent / "turning.py"
    source.write_text(
        "from layerwise.training.losses import cross_entropy\n"
        "calls = []\n"
        "def loss(outputs, labels, num_items_in_batch=None):\n"
        "    calls.append(1)\n"
        "    return cross_entropy(outputs, labels, num_items_in_batch) * (-1 if len(calls) > 20 else 1)\n"
    )
    curves = Curves()
    config = settings(
        32,
        optimizer=AdamW(learning_rate=0.01),
        schedule=Constant(),
        evaluation=EvaluationConfig(every=4, answers=0, texts=0),
        checkpoints=CheckpointConfig(best=True, keep=1),
        changes=ChangesConfig(loss=f"{source}:loss"),
    )
    result = trained(copying, config, folder, listener=Listener(curve=curves))
    best = min(curves.values["val/loss"].values())
    assert best < curves.values["val/loss"][32]
    assert result.metrics["val/loss"] == best
    model, rows = result.model, copying.validation
    again = predict_tokens(model, rows, batch_size=8, pad_id=0, device=torch.device("cpu"))
    assert float(again[0] / again[2]) == pytest.approx(best, rel=1e-6)


def test_a_diverged_loss_stops_and_names_the_last_good_checkpoint(copying: PreparedData, folder: Path) -> None:
    source = folder.parent / "broken.py"
    source.write_text(
        "from layerwise.training.losses import cross_entropy\n"
        "calls = []\n"
        "def loss(outputs, labels, num_items_in_batch=None):\n"
        "    calls.append(1)\n"
        "    return cross_entropy(outputs, labels, num_items_in_batch) * (float('nan') if len(calls) > 6 else 1)\n"
    )
    config = settings(20, checkpoints=CheckpointConfig(every=5), changes=ChangesConfig(loss=f"{source}:loss"))
    with pytest.raises(Diverged, match="the loss became nan at step 7") as caught:
        trained(copying, config, folder)
    assert caught.value.checkpoint == folder / "checkpoint-5"
    assert "Lower optimizer.learning_rate" in str(caught.value)


def test_weights_that_are_not_numbers_are_never_kept(copying: PreparedData, folder: Path) -> None:
    """Even where nobody has looked at the loss since they went bad."""

    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 5:
                model.body.token_embedding.weight.data[0, 0] = float("inf")

    evaluation = EvaluationConfig(every=40, answers=0, texts=0, log_every=40)
    with pytest.raises(Diverged, match="a weight became not a number at step 6"):
        _with_callback(
            copying, settings(40, evaluation=evaluation, checkpoints=CheckpointConfig(every=3)), folder, Break()
        )
    assert last_checkpoint(folder) == folder / "checkpoint-3"


def test_half_a_checkpoint_is_none(copying: PreparedData, folder: Path) -> None:
    trained(copying, settings(6, checkpoints=CheckpointConfig(every=3)), folder)
    assert last_checkpoint(folder) == folder / "checkpoint-6"
    (folder / "checkpoint-6" / "trainer_state.json").unlink()  # the last file a checkpoint gets: killed before it
    assert last_checkpoint(folder) == folder / "checkpoint-3"
    assert not (folder / "checkpoint-6").exists()
    assert not list(folder.rglob("training_args.bin"))


def test_a_checkpoint_that_cannot_be_written_says_so_and_leaves_the_one_before(
    copying: PreparedData, folder: Path
) -> None:
    """Files may not grow beyond a few kilobytes from step 5 on: the errors are those of safetensors and the machine."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 5:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))

    config = settings(9, checkpoints=CheckpointConfig(every=3))
    try:
        with pytest.raises(
            UserError, match=r"checkpoint-6 could not be written at step 6(.|\n)*checkpoint-3, is whole"
        ):
            _with_callback(copying, config, folder, Fill())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert last_checkpoint(folder) == folder / "checkpoint-3"
    assert not (folder / "checkpoint-6").exists()
    assert trained(copying, config, folder, resume=folder / "checkpoint-3").steps == 9


def test_norms_and_the_largest_parameter(copying: PreparedData, folder: Path) -> None:
    curves = Curves()
    config = settings(
        4,
        training=TrainingConfig(steps=4, batch_size=8, clip=0.25, device="cpu"),
        evaluation=EvaluationConfig(every=4, answers=0, texts=0, log_every=1, norms_every=2, largest_parameter=True),
    )
    result = trained(copying, config, folder, listener=Listener(curve=curves))
    found = weights(result.model)
    of_module = [value for name, value in found.items() if name.startswith("body.blocks.1.attention.out_proj.")]
    name = "weights/body.blocks.1.attention.out_proj"
    assert curves.values[name][4] == pytest.approx(sum(float(w.square().sum()) for w in of_module) ** 0.5, rel=1e-5)
    clipped = sum(values[4] ** 2 for name, values in curves.values.items() if name.startswith("gradients/")) ** 0.5
    assert clipped == pytest.approx(0.25, rel=1e-3)
    assert curves.values["batch/gradient_norm"][4] > 0.25
    assert all(values[2] > 0 for name, values in curves.values.items() if name.startswith("steps/"))
    assert set(curves.values[name]) == {2, 4}
    assert curves.values["parameters/largest"][4] == pytest.approx(max(float(w.abs().max()) for w in found.values()))


def test_a_plateau_lowers_the_learning_rate_after_its_warm_up(copying: PreparedData, folder: Path) -> None:
    curves = Curves()
    config = settings(
        20,
        optimizer=AdamW(learning_rate=1e-9),
        schedule=Plateau(warmup_steps=4, factor=0.5, patience=1, floor=0.2),
        evaluation=EvaluationConfig(every=2, answers=0, texts=0, log_every=1),
    )
    trained(copying, config, folder, listener=Listener(curve=curves))
    rates = curves.values["batch/learning_rate"]
    assert [rates[step] for step in (1, 2, 3, 4, 5)] == pytest.approx([0, 0.25e-9, 0.5e-9, 0.75e-9, 1e-9], abs=1e-15)
    assert rates[20] == pytest.approx(0.2e-9)


def test_half_precision(copying: PreparedData, folder: Path) -> None:
    base = TrainingConfig(steps=8, batch_size=8, device="cpu")
    full, half = (
        trained(copying, settings(training=replace(base, precision=precision)), folder / precision)
        for precision in ("fp32", "bf16")
    )
    assert not same(weights(full.model), weights(half.model))
    assert same(weights(full.model), weights(half.model), within=0.02)
    assert all(weight.dtype == torch.float32 for weight in half.model.parameters())
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        trained(copying, settings(training=replace(base, precision="fp16")), folder)


def test_activations_that_are_not_kept_change_nothing(copying: PreparedData, folder: Path) -> None:
    base = TrainingConfig(steps=4, batch_size=8, device="cpu")
    one, other = (
        trained(copying, settings(training=replace(base, activation_checkpointing=kept)), folder / str(kept), DROPPING)
        for kept in (False, True)
    )
    assert same(weights(one.model), weights(other.model), within=1e-6)


@pytest.mark.slow
def test_compiled_training_is_training(copying: PreparedData, folder: Path) -> None:
    base = TrainingConfig(steps=8, batch_size=8, device="cpu")
    one, other = (
        trained(copying, settings(training=replace(base, compile=compiled)), folder / str(compiled))
        for compiled in (False, True)
    )
    assert same(weights(one.model), weights(other.model), within=1e-4)
