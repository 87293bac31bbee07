"""Networks that a task trains for itself, for a few steps."""

from __future__ import annotations

import pytest

from layerwise.interventions.alignment import networks
from layerwise.interventions.alignment.bundled import find_task
from layerwise.interventions.alignment.known import draw_known


def test_a_word_model_reads_every_price_and_answers_in_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "WORD_EXAMPLES", 400)
    monkeypatch.setattr(networks, "WORD_STEPS", 40)
    task, steps = find_task("price_tagging"), []
    model = networks.learn_words(task, 0, steps.append)  # type: ignore[arg-type]  # a price_tagging task is one of text
    assert len(steps) == 40
    assert len(set(task.candidates(model).tolist())) == 2
    drawn = draw_known(model, task, ["above"], 20, 0, held_out=True, known_only=False)
    assert task.encode(model, drawn.pairs.base).batch.mask.shape == (20, 7)
    assert 0.3 < drawn.accuracy <= 1
    again = networks.learn_words(task, 0)  # type: ignore[arg-type]
    assert again.fingerprint == model.fingerprint
