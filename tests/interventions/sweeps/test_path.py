"""Path patching, beside the same done one sender at a time with whole forwards."""

from __future__ import annotations

import numpy as np
import pytest

from layerwise.errors import UserError
from layerwise.interventions.patching import last_columns
from layerwise.interventions.sweeps.config import PathPatching
from layerwise.interventions.sweeps.path import patch_paths
from layerwise.models.taps import run


def by_hand(asked, sender: str, receivers: list[str], freeze: str) -> list[float]:
    """Two whole forwards a text: what the receivers hear of the sender alone, then only that said."""
    model, found = asked.model, []
    head = sender.count(".") == 2
    site = sender.rpartition(".")[0] if head else sender
    for row in range(len(asked)):
        clean, corrupted = (asked.batch(side, [row]) for side in ("clean", "corrupted"))
        kinds = ["attn_out"] + (["mlp_out"] if freeze == "all" else [])
        held = run(model, clean, {f"{kind}.{layer}": None for kind in kinds for layer in range(2)})
        other = run(model, corrupted, {site: None})[site]
        layer = int(sender.split(".")[1])

        def send(value, other=other):
            new = value.clone()
            if head:
                new[:, :, int(sender.split(".")[2])] = other[:, :, int(sender.split(".")[2])]
            else:
                new = other
            return new

        writes = {site: send}
        for name, value in held.items():
            kind, at = name.split(".")
            behind = int(at) > layer or (kind == "mlp_out" and int(at) == layer and site.startswith("z"))
            if behind and name != site:
                writes[name] = lambda now, value=value: value
        if receivers == ["logits"]:
            logits = run(model, clean, writes=writes, logits=True)["logits"]
        else:
            heard = run(model, clean, dict.fromkeys(receivers), writes)
            said = {name: (lambda now, value=heard[name]: value) for name in receivers}
            logits = run(model, clean, writes=said, logits=True)["logits"]
        last = logits[0, int(last_columns(clean)[0])]
        found.append(float(last[int(asked.answers[row])] - last[int(asked.others[row])]))
    return found


@pytest.mark.parametrize("freeze", ["attention", "all"])
@pytest.mark.parametrize("receivers", [["logits"], ["q.1"], ["k.1", "v.1"]])
def test_each_sender_is_what_whole_forwards_give(asked, receivers: list[str], freeze: str) -> None:
    found = patch_paths(
        asked, PathPatching(senders=["z.0.*", "mlp_out.0"], receivers=receivers, freeze=freeze), "logit_difference"
    )
    names = [f"z.0.{head}" for head in range(4)] + ["mlp_out.0"]
    assert len(found.senders) == 5
    for number, name in enumerate(names):
        want = by_hand(asked, name, receivers, freeze)
        assert found.swept.values[number].tolist() == pytest.approx(want, abs=2e-5)
    assert abs(found.swept.changes).max() > 1e-4


def test_one_head_of_a_receiver_hears_less_than_all(asked) -> None:
    settings = {"senders": ["mlp_out.0"]}
    one, two, all_heads = (
        patch_paths(asked, PathPatching(receivers=names, **settings), "logit_difference").swept.changes[0]
        for names in (["q.1.0"], ["q.1.0", "q.1.1", "q.1.2", "q.1.3"], ["q.1"])
    )
    assert two == pytest.approx(all_heads, abs=1e-6)
    assert one != pytest.approx(all_heads, abs=1e-6)


@pytest.mark.parametrize("receivers", [["logits"], ["q.1", "v.1"]])
def test_a_control_sends_a_change_as_large_the_same_way(asked, receivers: list[str]) -> None:
    settings = PathPatching(senders=["z.0.*", "mlp_out.0"], receivers=receivers, controls=3)
    found = patch_paths(asked, settings, "logit_difference", seed=4)
    order = np.argsort(-abs(found.swept.changes), kind="stable")[:3]
    assert found.controls["change"].tolist() == found.swept.changes[order].tolist()
    assert (found.controls["random"].abs() > 1e-7).all()
    assert found.controls["random"].tolist() != pytest.approx(found.controls["change"].tolist(), rel=1e-2)
    again = patch_paths(asked, settings, "logit_difference", seed=5).controls["random"]
    assert again.tolist() != pytest.approx(found.controls["random"].tolist(), rel=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"senders": ["resid_pre.0"]}, "resid_pre.0 cannot send"),
        ({"receivers": ["pattern.0"]}, "pattern.0 cannot receive"),
        ({"senders": ["mlp_out.1"], "receivers": ["q.0"]}, "no sender comes before"),
        ({"senders": ["z.0.9"]}, "head 9"),
        ({"receivers": ["logits", "q.1"]}, "by themselves"),
        ({"senders": []}, "name at least one"),
    ],
)
def test_what_cannot_be_a_path_is_told(asked, settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        patch_paths(asked, PathPatching(**settings), "logit_difference")
