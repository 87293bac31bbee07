"""``intervention: erasure``: a concept taken out; what probes still find of it, and what the model still does.

The recipe: fit erasers to some texts; run all texts with them in place and probe every layer anew, judged on texts that no eraser saw; ask the
model about those; measure neutral text; set random directions beside it all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerwise.errors import UserError
from layerwise.jobs.intervene_behaviour import begin, divide, neutral_texts
from layerwise.jobs.intervene_pairs import need_model

if TYPE_CHECKING:
    from layerwise.data.dataset import TextDataset
    from layerwise.interventions.erasure.config import Erasure
    from layerwise.interventions.erasure.sites import Erasers, Labelled
    from layerwise.interventions.sweeps.asked import AskedPairs
    from layerwise.jobs.intervene import InterveneConfig
    from layerwise.models.model import LanguageModel
    from layerwise.tracking.run import Tracker

NOTHING = "nothing erased"


def run(config: InterveneConfig, model: LanguageModel | None, tracker: Tracker) -> str:
    """Fit, probe again, ask, price, record; returns the summary."""
    import torch

    from layerwise.interventions.erasure.config import Erasure
    from layerwise.interventions.erasure.sites import as_plan
    from layerwise.interventions.metrics import metric_entry
    from layerwise.interventions.sweeps.ledger import Ledgers
    from layerwise.progress import Progress
    from layerwise.reports.interventions.erasure import erasure_charts
    from layerwise.tracking.servable_steered import log_steered

    settings: Any = config.intervention
    assert isinstance(settings, Erasure)
    model = need_model(config, model)
    if config.texts is None:
        raise UserError("erasure takes out what labels say: name labelled texts with texts.")
    made = divide(config, settings.question, config.texts)
    assert made.fitted is not None
    assert made.held_out is not None
    if made.fitted.task != "classification":
        raise UserError(f"{made.fitted.name!r} has no classes: erasure needs texts with a class each.")
    asked, key = begin(config, model, made, tracker)
    fitted, held_out = (
        labelled(model, texts, settings.tokens, config.token_budget) for texts in (made.fitted, made.held_out)
    )
    arms = list(fitted_arms(config, settings, model, fitted))
    rows, tables = [], []
    with Ledgers(key) as ledgers, Progress("erasure", len(arms) + 1, "arm") as progress:
        ledger = ledgers.open("arms", len(arms) + 1, 2 + 2 * model.sites.n_layers)
        for number, (method, site, erasers) in enumerate([(NOTHING, "", {}), *arms]):
            if np.isnan(ledger.values[number]).any():
                scores = decodable(model, erasers, fitted, held_out)
                measured = np.array([*behaviour(config, settings, asked, erasers), *scores.T.ravel()])
                ledger.put([number], np.arange(len(measured)), torch.from_numpy(measured)[None])
            (effect, perplexity), scores = ledger.values[number, :2], ledger.values[number, 2:].reshape(2, -1)
            found = pd.DataFrame({"accuracy": scores[0], "training_accuracy": scores[1]})
            tables.append(found.rename_axis("layer").reset_index().assign(method=method, site=site))
            layer = -1 if not site else model.sites.layer_of(site)
            rank = max((eraser.rank for eraser in erasers.values()), default=0)
            rows.append((method, site, layer, rank, float(effect), float(perplexity)))
            progress.advance()
    table = pd.DataFrame(rows, columns=["method", "site", "layer", "rank", "effect", "perplexity"])
    probes = pd.concat(tables, ignore_index=True)
    chance = float(np.bincount(made.held_out.labels).max() / len(made.held_out))  # type: ignore[arg-type]
    tracker.table(table, "arms")
    tracker.table(probes, "decodable")
    title = f"{made.asked.name.capitalize()} erased from {model.name}"
    words = metric_entry(config.metric).words
    for name, chart in erasure_charts(probes, table, chance, config.metric.replace("_", " "), title).items():
        tracker.figure(chart, name)
    tracker.metrics({"chance/accuracy": chance})
    for method, site, erasers in arms:
        if not site:
            log_steered(tracker, as_plan(model, erasers), f"erased_{method}")
    where = "each alone" if settings.apart else "together"
    lines = [
        f"erasure of {made.asked.name} at {', '.join(settings.sites)} {where}, from the {settings.tokens} token(s) of a text: "
        f"fitted to {len(made.fitted)} texts, judged on {len(made.held_out)} others"
    ]
    return "\n".join(lines + _lines(config, settings, table, probes, chance, words, tracker))


def labelled(model: LanguageModel, texts: TextDataset, tokens: str, token_budget: int | None) -> list[Labelled]:
    """Batches of texts of similar length, with their labels and the tokens that are erased from."""
    import torch

    from layerwise.data.batching import token_budget_batches
    from layerwise.interventions.erasure.sites import Labelled
    from layerwise.interventions.patching import last_columns
    from layerwise.models.batch import budget_of, make_batch

    found = model.tokenize(list(texts.texts))
    lengths = np.array([len(row) for row in found.ids])
    batches = []
    for rows in token_budget_batches(lengths, budget_of(model.device, token_budget)):
        batch = make_batch(model, found, rows)
        columns = torch.arange(batch.mask.shape[1], device=batch.mask.device)
        where = batch.mask if tokens == "all" else columns == last_columns(batch)[:, None]
        batches.append(Labelled(batch, torch.from_numpy(np.asarray(texts.labels)[rows]), where))
    return batches


def fitted_arms(
    config: InterveneConfig, settings: Erasure, model: LanguageModel, fitted: list[Labelled]
) -> list[tuple[str, str, Erasers]]:
    """(method, site or '' for all together, erasers) of everything that is tried."""
    from functools import partial

    from layerwise.interventions.erasure.eraser import fit_eraser
    from layerwise.interventions.erasure.sites import fit_sites

    sites = list(model.sites.expand(settings.sites))
    arms: list[tuple[str, str, Erasers]] = []
    for method in settings.methods:
        fit = partial(fit_eraser, method, rounds=settings.rounds, seed=config.seed)
        if settings.apart:
            arms += [(method, site, fit_sites(model, fitted, [site], fit)) for site in sites]
        else:
            arms.append((method, "", fit_sites(model, fitted, sites, fit)))
    return arms


def decodable(model: LanguageModel, erasers: Erasers, fitted: list[Labelled], held_out: list[Labelled]) -> np.ndarray:
    """(layers, 2): the accuracy of a ridge probe fitted to the residuals of the last token with the erasers in place, on texts it did not
    see, and on those it was fitted to."""
    from layerwise.probes.penalised import RidgeClassifierProbe

    seen, new = (_last_residuals(model, erasers, texts) for texts in (fitted, held_out))
    rows = []
    for site, values in seen[0].items():
        probe = RidgeClassifierProbe().fit(values, seen[1])
        both = ((new[0][site], new[1]), (values, seen[1]))
        rows.append([float((probe.predict(part) == labels).mean()) for part, labels in both])
    return np.array(rows)


def _last_residuals(
    model: LanguageModel, erasers: Erasers, texts: list[Labelled]
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """By site the residuals (n, width) of each text's last token, and the labels (n,)."""
    import torch
    from torch import Tensor

    from layerwise.interventions.erasure.sites import erasing
    from layerwise.interventions.patching import last_columns
    from layerwise.models.taps import run as run_model

    found: dict[str, list[Tensor]] = {}
    for one in texts:
        ends = last_columns(one.batch)

        def at_end(value: Tensor, ends: Tensor = ends) -> Tensor:
            return value[torch.arange(len(value), device=value.device), ends]

        reads = dict.fromkeys(model.sites.expand(["resid_post.*"]), at_end)
        for site, values in run_model(model, one.batch, reads, erasing(erasers, one.where)).items():
            found.setdefault(site, []).append(values.float().cpu())
    labels = torch.cat([one.labels for one in texts]).numpy()
    return {site: torch.cat(parts).double().numpy() for site, parts in found.items()}, labels


def behaviour(config: InterveneConfig, settings: Erasure, asked: AskedPairs, erasers: Erasers) -> tuple[float, float]:
    """How far the metric of the prompts moves, and the perplexity of neutral text, with the erasers in place."""
    from layerwise.data.batching import token_budget_batches
    from layerwise.interventions.erasure.sites import as_changes
    from layerwise.interventions.side_by_side import marked, read_batch, read_prompts, run_changed
    from layerwise.models.batch import budget_of, make_batch

    model, moved = asked.model, []
    positions = "part:text:last" if settings.tokens == "last" else "part:text"
    changes = as_changes(erasers)
    for rows in asked.chunks(config.token_budget) if erasers else []:
        rerun = read_prompts(asked, config.metric, rows, config.token_budget)
        values = run_changed(rerun, changes, 1, where=marked(asked, positions, rows, rerun.kept.batch))
        moved.append((values[0] - rerun.base.cpu().float()).numpy())
    tokens = model.tokenize(neutral_texts(settings.neutral))
    lengths = np.array([len(row) for row in tokens.ids])
    total = count = 0.0
    for rows in token_budget_batches(lengths, budget_of(model.device, config.token_budget)):
        rerun = read_batch(model, make_batch(model, tokens, rows), "loss", token_budget=config.token_budget)
        # A text's first token has activations unlike any other's, and erasers of last tokens know nothing of it.
        where = rerun.kept.batch.mask.clone()
        where[:, 0] &= settings.tokens == "all"
        losses = run_changed(rerun, changes, 1, where=where)[0] if erasers else rerun.base.cpu()
        weights = rerun.asked.at.sum(1).cpu()
        total, count = total + float((losses * weights).sum()), count + float(weights.sum())
    effect = float(np.concatenate(moved).mean()) if moved else 0.0
    return effect, float(np.exp(total / count))


def _lines(
    config: InterveneConfig, settings: Erasure, table: pd.DataFrame, probes: pd.DataFrame, chance: float, words: str, tracker: Tracker
) -> list[str]:  # fmt: skip
    """What came out in words, and as metrics of the run."""
    lines = [
        f"accuracy of a probe on held-out texts (chance {chance:.3f}); change of {words}; perplexity of neutral text"
    ]
    row: Any
    for row in table.itertuples():
        mine = probes[(probes["method"] == row.method) & (probes["site"] == row.site)]
        best = mine.iloc[int(mine["accuracy"].argmax())]
        name = str(row.method).replace(" ", "_")
        if not row.site:
            tracker.curve(f"decodable/{name}", dict(zip(mine["layer"].astype(int), mine["accuracy"], strict=True)))
            tracker.metrics({f"effect/{name}": float(row.effect), f"perplexity/{name}": float(row.perplexity)})
        place = f" at {row.site}" if row.site else ""
        lines.append(
            f"  {row.method}{place}: best {best['accuracy']:.3f} (layer {int(best['layer'])}), last layer {mine['accuracy'].iloc[-1]:.3f}; "
            f"{row.effect:+.3f}; {row.perplexity:.1f}; up to {row.rank} directions a site"
        )
    return lines
