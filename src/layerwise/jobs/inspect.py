"""``inspect``: look into one model, trained here or pretrained: what it writes, expects and finds surprising, where it attends.

The recipe: load the model; let it go on from the prompts; read out its layers; score the texts; ask its heads; follow a head
through checkpoints; see that it loads as it was; draw curves of runs. Each part is there if it is asked for.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layerwise.data.config import DatasetConfig
from layerwise.errors import UserError, check_seed
from layerwise.models.config import ModelConfig
from layerwise.training.inspection.config import MetricPlot, RepeatedTokens, Sampling

if TYPE_CHECKING:
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

SHOWN_TEXTS = 30


@dataclass(frozen=True)
class InspectConfig:
    """A model, and what to look at.

    model: any model; one that a run made is ``runs:/RUN_ID``, its checkpoint ``runs:/RUN_ID/checkpoint-500``.
    prompts: what it goes on from, and is read out on; an empty one begins a text.
    sampling: how it goes on: temperature, top_k, top_p (nucleus) or beams; null: it does not.
    next_tokens: so many of the likeliest next tokens after each prompt; 0 for none.
    lens: sites at which the first prompt is read out by the logit lens; empty for none.
    attention: attention patterns of the first prompt, such as ``pattern.*``, ``pattern.3``, ``pattern.3.5``; empty for none.
    embeddings: sites whose vectors of every token of the prompts are kept, such as ``embed,resid_post.*``.
    texts: texts whose cross-entropy and perplexity are measured, token by token.
    heads: what each head does with repeated random tokens: induction, previous token, duplicate token.
    follow: one head, such as ``pattern.1.0``, on the first prompt at each checkpoint of the model's run.
    stability: load the model twice; see that nothing differs, and that its validation loss is the one its run logged.
    plots: metrics of runs over one axis.
    token_budget: padded tokens a batch; it changes speed and memory alone.
    seed: of what is drawn.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    prompts: list[str] = field(default_factory=list, metadata={"splits": False})
    sampling: Sampling | None = field(default_factory=Sampling)
    next_tokens: int = 20
    lens: list[str] = field(default_factory=lambda: ["resid_post.*"])
    attention: list[str] = field(default_factory=lambda: ["pattern.*"])
    embeddings: list[str] = field(default_factory=list)
    texts: DatasetConfig | None = None
    heads: RepeatedTokens | None = None
    follow: str | None = None
    stability: bool = False
    plots: list[MetricPlot] = field(default_factory=list)
    token_budget: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not self.of_the_model and not self.plots:
            raise UserError(
                "there is nothing to look at: give prompts, texts, heads, stability or plots, for instance --prompts 'Once upon a'."
            )
        if self.next_tokens < 0:
            raise UserError(f"next_tokens must be at least 0, got {self.next_tokens}.")
        if self.token_budget is not None and self.token_budget < 1:
            raise UserError(f"token_budget must be at least 1, got {self.token_budget}.")
        if not self.prompts and (self.follow is not None or self.embeddings):
            raise UserError(f"{'follow' if self.follow else 'embeddings'} needs a prompt: give prompts.")

    @property
    def of_the_model(self) -> bool:
        """Whether anything is asked of the model itself."""
        return bool(self.prompts or self.texts or self.heads or self.stability)


def run(config: InspectConfig, tracker: Tracker) -> None:
    """Load, look, record. Raises UserError for what the person can mend."""
    from layerwise.data.load import load_dataset
    from layerwise.jobs.inspect_runs import draw_metrics, follow_head, see_stability
    from layerwise.models.loading import load_model

    lines: list[str] = []
    if not config.of_the_model:
        tracker.name("inspect: curves")
        lines = draw_metrics(config, tracker)
        tracker.summary("\n".join(lines))
        return
    dataset = None if config.texts is None else load_dataset(config.texts)
    model = load_model(config.model)
    if not config.plots and config.follow is None:  # these look at runs, which may have more to show by now
        tracker.begin(model=model.fingerprint, data="" if dataset is None else dataset.digest())
    tracker.name(f"inspect: {model.name}")
    tracker.language_model(model)
    print(model, file=sys.stderr)
    lines.append(str(model))
    if config.prompts:
        lines += _prompts(config, model, tracker)
    if dataset is not None:
        tracker.dataset(dataset, "inspect")
        tracker.tags({"dataset": dataset.name})
        lines += _texts(config, model, list(dataset.texts), tracker)
    if config.heads is not None:
        lines += _heads(config, config.heads, model, tracker)
    if config.follow is not None:
        lines += follow_head(config, config.follow, tracker)
    if config.stability:
        lines += see_stability(config, tracker)
    if config.plots:
        lines += draw_metrics(config, tracker)
    tracker.summary("\n".join(lines))


def _prompts(config: InspectConfig, model: LanguageModel, tracker: Tracker) -> list[str]:
    """What the model writes and expects, and on the first prompt what its layers would say and where its heads attend."""
    import pandas as pd

    from layerwise.progress import Progress
    from layerwise.reports.inspection.prompts import prompts_page
    from layerwise.training.inspection.next_token import next_tokens
    from layerwise.training.inspection.sampling import sample

    lines: list[str] = []
    samples = []
    if config.sampling is not None:
        drawn = len(config.prompts) * (config.sampling.samples if config.sampling.draws else 1)
        with Progress(f"{model.name} writes", drawn, "text") as bar:
            samples = sample(
                model, config.prompts, config.sampling, seed=config.seed, token_budget=config.token_budget, done=bar.advance
            )  # fmt: skip
        rows: list[dict[str, Any]] = [
            {
                "prompt": one.prompt, "text": one.text, "tokens": len(one.ids), "log_p": one.log_p, "ended": one.ended,
                "sampling": str(config.sampling),
            }
            for of_prompt in samples
            for one in of_prompt
        ]  # fmt: skip
        tracker.item_table(pd.DataFrame(rows), "samples")
        lines += [f"  {row['prompt'][-30:]!r} → {row['text'][:90]!r}" for row in rows[:8]]
    expected = {prompt: next_tokens(model, prompt) for prompt in config.prompts} if config.next_tokens else {}
    if expected:
        tops = [found.top(config.next_tokens).assign(prompt=prompt) for prompt, found in expected.items()]
        tracker.table(pd.concat(tops, ignore_index=True), "next_tokens")
        for prompt, top in zip(expected, tops, strict=True):
            best = ", ".join(f"{row.token!r} {row.p:.3f}" for row in top.head(5).itertuples())
            lines.append(f"  after {prompt[-30:]!r}: {best}")
    if samples or expected:
        page = prompts_page(model.name, str(config.sampling), samples, expected, config.next_tokens)
        tracker.text(page, "prompts.html")
    return lines + _layers(config, model, tracker)


def _layers(config: InspectConfig, model: LanguageModel, tracker: Tracker) -> list[str]:
    """The first prompt read out layer by layer and head by head; the vectors of all prompts."""
    import tempfile
    from pathlib import Path

    from layerwise.reports.inspection.attention import head_grid
    from layerwise.reports.inspection.lens import LensMap, lens_curve
    from layerwise.training.inspection.attention import attention_patterns
    from layerwise.training.inspection.embeddings import layer_embeddings
    from layerwise.training.inspection.lens import logit_lens

    lines: list[str] = []
    if config.lens:
        reading = logit_lens(model, config.prompts[0], config.lens)
        tracker.figure(LensMap(reading, model.name), "logit_lens")
        tracker.figure(lens_curve(reading, model.name), "logit_lens_kl")
        tracker.table(reading.table(), "logit_lens")
        agrees = [
            site
            for site, top in zip(reading.sites, reading.top[:, -1, 0], strict=True)
            if top == reading.top[-1, -1, 0]
        ]
        lines.append(
            f"  logit lens: {reading.top[-1, -1, 0]!r} is first at {len(agrees)} of {len(reading.sites)} sites, from {agrees[0]}"
        )
    if config.attention:
        found = attention_patterns(model, config.prompts[0], config.attention)
        tracker.figure(head_grid(found), "attention")
        tracker.table(found.table(), "attention")
        lines.append(
            f"  attention of {len(found.patterns)} heads over {len(found.tokens)} tokens: figures/attention.html"
        )
    if config.embeddings:
        vectors = layer_embeddings(model, config.prompts, config.embeddings)
        by_layer = vectors.by_layer()
        tracker.table(by_layer, "embeddings_by_layer")
        tracker.table(vectors.table(), "embedded_tokens")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "embeddings.safetensors"
            vectors.save(path)
            tracker.file(path)
        lines.append(f"  vectors of {len(vectors.tokens)} tokens at {len(by_layer)} sites: embeddings.safetensors")
    return lines


def _texts(config: InspectConfig, model: LanguageModel, texts: list[str], tracker: Tracker) -> list[str]:
    """Cross-entropy of every token."""
    from layerwise.progress import Progress
    from layerwise.reports.charts import Histogram
    from layerwise.reports.token_view import token_view
    from layerwise.training.inspection.perplexity import perplexity

    with Progress(f"{model.name} reads", len(texts), "text") as bar:
        found = perplexity(model, texts, token_budget=config.token_budget, done=bar.advance)
    summary = found.summary()
    tracker.metrics({f"text/{name}": value for name, value in summary.items()})
    by_text = found.by_text()
    tracker.table(found.tokens, "tokens")
    tracker.table(by_text, "texts")
    tracker.text(token_view(found.scored(SHOWN_TEXTS), f"What surprises {model.name}"), "tokens.html")
    histogram = Histogram(
        f"{model.name}: cross-entropy of {len(texts):,} texts", "nats a token, mean over a text",
        {"texts": by_text["cross_entropy"].to_numpy()}, {"mean over tokens": found.cross_entropy},
    )  # fmt: skip
    tracker.figure(histogram, "cross_entropy")
    return [
        f"  {len(texts):,} texts, {len(found.tokens):,} tokens: cross-entropy {summary['cross_entropy']:.4f} nats, perplexity "
        f"{summary['perplexity']:.3f}, of texts {summary['perplexity_min']:.2f} to {summary['perplexity_max']:.2f}; "
        f"{summary['bits_per_byte']:.4f} bits a byte; the likeliest token is right in {summary['accuracy']:.3f}"
    ]


def _heads(config: InspectConfig, repeated: RepeatedTokens, model: LanguageModel, tracker: Tracker) -> list[str]:
    """What every head does with repeated tokens."""
    from layerwise.reports.inspection.attention import score_map
    from layerwise.training.inspection.attention import SCORES, head_scores

    scores = head_scores(model, repeated, seed=config.seed)
    tracker.table(scores, "heads")
    lines = []
    for name in SCORES:
        best = scores.iloc[int(scores[name].argmax())]
        tracker.metrics({f"heads/{name}": float(best[name])})
        place = f"pattern.{int(best['layer'])}.{int(best['head'])}"
        lines.append(f"  {name.replace('_', ' ')}: {best[name]:.3f} at {place}")
        tracker.figure(score_map(scores, name, model.name), f"heads_{name}")
    return [
        f"heads on {repeated.sequences} blocks of {repeated.length} random tokens that come twice, the strongest:",
        *lines,
    ]
