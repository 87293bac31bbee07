"""What a training leaves behind while it runs and in the end, and how one that was killed is found again and gone on with."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerwise.config import flatten, named_code
from layerwise.errors import UserError
from layerwise.files import atomic_file, cache_folder, digest, explain_os_errors, file_digest
from layerwise.jobs.train_samples import WrittenSamples
from layerwise.models.quiet import quiet_transformers
from layerwise.process import is_alive, is_main, myself, together
from layerwise.tracking.language_models import last_steps, log_language_model, logged_names, origin, training_data
from layerwise.tracking.models import MODEL
from layerwise.tracking.run import Tracker
from layerwise.tracking.trials import TrialTracker, adopted
from layerwise.training.fit import Listener, Trained
from layerwise.training.trainer import Diverged, last_checkpoint

if TYPE_CHECKING:
    from layerwise.comparison.items import Items
    from layerwise.jobs.train import TrainConfig
    from layerwise.models.model import LanguageModel
    from layerwise.training.prepared import PreparedData

_RUN_FILE = "run.json"


def name_of_data(config: TrainConfig) -> str:
    """``copy``, or the name of the file or folder."""
    data: Any = config.data
    named = getattr(data, "name", None) or getattr(data, "path", None)
    parts = [named] if isinstance(named, str) else list(named or ["data"])
    return ", ".join(Path(str(part)).name or str(part) for part in parts)


def name_of_model(config: TrainConfig) -> str:
    """``smollm2``, ``gpt2``, or the sizes of one built here."""
    model: Any = config.model
    if hasattr(model, "name"):
        return str(model.name)
    counts = ((model.n_layers, "layer"), (model.n_heads, "head"))
    sizes = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts]
    return ", ".join([*sizes, f"width {model.width}"])


@dataclass
class Recorded:
    """A training's run and the folder of its checkpoints.

    ``checkpoint``: the one to go on from, or None. ``known``: the last step recorded of each metric before it was killed.
    """

    config: TrainConfig
    data: PreparedData
    tracker: Tracker
    folder: Path
    checkpoint: Path | None = None
    known: dict[str, int] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    items: list[Items] = field(default_factory=list)

    @property
    def listener(self) -> Listener:
        if not is_main():
            return Listener()
        title = f"{name_of_model(self.config)} on {name_of_data(self.config)}"
        samples = WrittenSamples(self.tracker, title, begun=bool(self.known))
        return Listener(self.curve, samples.add, self.keep, self.questions)

    def curve(self, metrics: Mapping[str, float], step: int) -> None:
        """Metrics of a step; what the run holds already, from before it was killed, is not written twice."""
        new = {name: value for name, value in metrics.items() if step > self.known.get(name, -1)}
        if new:
            self.tracker.metrics(new, step)
        if "val/loss" in new and self.tracker.alone:
            self.tracker.flush()
            shown = ", ".join(
                f"{name} {value:.4g}" for name, value in new.items() if name.startswith(("val/", "train/"))
            )
            print(f"step {step:,}: {shown}", flush=True)

    def keep(self, folder: Path, step: int, metrics: Mapping[str, float]) -> None:
        """A checkpoint as a model of its own."""
        name = f"checkpoint-{step}"
        kept = self.config.checkpoints
        if kept.log and kept.every != 0 and not isinstance(self.tracker, TrialTracker) and name not in self.models:
            log_language_model(self.tracker, folder, name, step=step, metrics=metrics, data=self._validation)

    def questions(self, model: LanguageModel) -> dict[str, float]:
        """Of each set: how often the right option is the likeliest, or the only one is what the model would say, and its loss."""
        from layerwise.comparison.scoring import behave

        found: dict[str, float] = {}
        for items in self.items:
            behaviour = behave(model, items, progress=False)
            found |= {f"{items.name}/{name}": value for name, value in scores(items, behaviour).items()}
        return found

    @property
    def _validation(self) -> tuple[str, str]:
        return name_of_data(self.config), self.data.digest

    def keep_last_good(self, error: Diverged) -> None:
        """After a divergence the last good checkpoint is the run's model."""
        if is_main() and error.checkpoint is not None and not self._has_adapter:
            step = int(error.checkpoint.name.rpartition("-")[2])
            log_language_model(self.tracker, error.checkpoint, MODEL, step=step, metrics={}, data=self._validation)

    @property
    def _has_adapter(self) -> bool:
        return getattr(self.config.model, "adapter", None) is not None

    def conclude(self, trained: Trained) -> None:
        """The model, what it scores on texts it never met, and what a person should read."""
        tracker = self.tracker
        tracker.metrics(trained.test, trained.steps)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / MODEL
            with explain_os_errors(folder), quiet_transformers():
                trained.model.save_pretrained(folder)
                self.data.tokenizer.save_pretrained(folder)
            metrics = {**trained.metrics, **trained.test}
            uri = log_language_model(tracker, folder, MODEL, step=trained.steps, metrics=metrics, data=self._validation)
        tracker.tags({"trained_model": uri, "ended": trained.ended or "trained to its end"})
        self._figures()
        lines = [f"{name_of_model(self.config)} on {name_of_data(self.config)}, {trained.steps:,} steps"]
        if trained.ended:
            lines.append(f"ended early: {trained.ended}")
        for split in dict.fromkeys(name.partition("/")[0] for name in metrics):
            of = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith(f"{split}/")}
            lines.append(
                f"  {split:<16} " + "  ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in of.items())
            )
        lines.append(f"the model: runs:/{tracker.run_id}, as `model` of probe, compare, intervene and search")
        tracker.summary("\n".join(lines))

    def _figures(self) -> None:
        from layerwise.reports.training import learning_curves

        self.tracker.flush()
        histories = {
            name: [
                (item.step, item.value) for item in self.tracker.client.get_metric_history(self.tracker.run_id, name)
            ]
            for name in self.tracker.client.get_run(self.tracker.run_id).data.metrics
            if name.partition("/")[2] in ("loss", "accuracy", "exact_match")
        }  # fmt: skip
        for name, chart in learning_curves(histories, name_of_data(self.config)).items():
            self.tracker.figure(chart, name)


def scores(items: Items, behaviour: Any) -> dict[str, float]:
    """``accuracy`` of items with several options, ``exact_match`` and ``loss`` (nats a token) of the right one; known truths only."""
    rows = [row for row in range(len(items)) if items.truth is not None and items.truth[row] >= 0]
    if not rows:
        raise UserError(f"questions {items.name!r}: no right answer is known of any, so there is nothing to score.")
    truth = [int(items.truth[row]) for row in rows]  # type: ignore[index]
    right = [(behaviour.option[row], place) for row, place in zip(rows, truth, strict=True)]
    tokens = [behaviour.tokens[row][place] for row, place in zip(rows, truth, strict=True)]
    found = {
        "exact_match": sum(bool(behaviour.greedy[row][place]) for row, place in zip(rows, truth, strict=True))
        / len(rows),
        "loss": -sum(float(options[place]) for options, place in right) / sum(tokens),
    }
    if all(len(items.options[row]) > 1 for row in rows):
        found["accuracy"] = sum(int(options.argmax()) == place for options, place in right) / len(rows)
    return found


@contextmanager
def recording(config: TrainConfig, data: PreparedData, tracker: Tracker) -> Iterator[Recorded]:
    """The run of this training: the one that was killed, with its last checkpoint, where there is one; else a new one.

    Raises Reused where a finished run did this very work, UserError where another process is at it.
    """
    items = _questions(config, data)
    identity = {"data": data.digest, **({"questions": digest([one.digest() for one in items])} if items else {})}
    if isinstance(tracker, TrialTracker):  # a trial is tried again as a whole
        with tempfile.TemporaryDirectory() as temporary:
            tracker.begin(**identity)
            yield _begun(Recorded(config, data, tracker, Path(temporary), items=items))
        return
    if not is_main():
        tracker.under_mlflow_run = False  # that run is the first process's
    tracker.look(**identity)
    folder = _folder(config, data)
    if not is_main():
        yield Recorded(config, data, tracker, folder, last_checkpoint(folder), items=items)
        return
    known = _read(folder / _RUN_FILE)
    if known and is_alive(known.get("process", {})) and known["process"] != myself():
        raise UserError(
            f"process {known['process']['pid']} is at this very training (run {known['run']}).\n"
            "Wait for it, or end it: the same command then goes on from its last checkpoint."
        )
    earlier = known.get("run") if last_checkpoint(folder) is not None else None
    if earlier is not None and not tracker.exists(earlier):
        earlier = None
    if earlier is None:
        shutil.rmtree(folder, ignore_errors=True)
    with adopted(tracker, earlier) if earlier else nullcontext(tracker) as at:
        recorded = Recorded(config, data, at, folder, last_checkpoint(folder), items=items)
        if earlier is not None:
            recorded.known, recorded.models = last_steps(at), logged_names(at)
            print(f"going on with run {earlier} from {recorded.checkpoint}", flush=True)
        at.begin(**identity)
        with atomic_file(folder / _RUN_FILE) as path:
            path.write_text(json.dumps({"run": at.run_id, "process": myself()}), encoding="utf-8")
        yield _begun(recorded)
    shutil.rmtree(folder, ignore_errors=True)


def _begun(recorded: Recorded) -> Recorded:
    """Everything about a run that is known before its first step."""
    config, tracker = recorded.config, recorded.tracker
    tracker.name(f"train: {name_of_model(config)} on {name_of_data(config)}")
    tracker.tags({"model": name_of_model(config), "dataset": name_of_data(config)})
    if not recorded.known:
        training_data(tracker, name_of_data(config), recorded.data.digest, recorded.data.report.parts)
        origin(tracker, name_of_model(config))
        for items in recorded.items:
            tracker.dataset(items, "questions")
        for source in {Path(name.partition(":")[0]).expanduser() for name in named_code(config)}:
            if source.is_file():
                tracker.file(source, "code")
    if not isinstance(tracker, TrialTracker):
        tracker.watch_system()
    return recorded


def _questions(config: TrainConfig, data: PreparedData) -> list[Items]:
    """The sets to be scored; what the model's tokenizer cannot read of them is told."""
    from layerwise.comparison.loading import load_items
    from layerwise.training.tokenizers import unknown_id

    found = [load_items(one) for one in config.questions] if is_main() else []
    unknown = unknown_id(data.tokenizer)
    for items in found if unknown is not None else []:
        coded = data.tokenizer([*items.prompts, *chain(*items.options)], add_special_tokens=False)["input_ids"]
        if unread := sum(unknown in ids for ids in coded):
            print(
                f"note: {unread:,} of {len(coded):,} prompts and options of {items.name} hold what the tokenizer does not know; "
                f"the model reads it as {data.tokenizer.unk_token}.",
                flush=True,
            )
    return found


def _folder(config: TrainConfig, data: PreparedData) -> Path:
    """Where checkpoints lie: by everything that decides how training goes, so that the same command finds them again."""
    sources = {name: Path(name.partition(":")[0]).expanduser() for name in named_code(config)}
    own = {name: file_digest(path) for name, path in sources.items() if path.is_file()}
    mark = digest([flatten(config), data.digest, own, together()])[:32]
    root = config.checkpoints.folder
    return Path(root).expanduser() / mark if root is not None else cache_folder("training") / mark


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        return {}
