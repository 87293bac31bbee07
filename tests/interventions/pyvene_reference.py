"""What pyvene gives for the cases of ``pyvene_cases.py`` and ``pyvene_nets.py``, and the folders it saves, written to ``pyvene.safetensors``.

    python tests/interventions/pyvene_reference.py          in an environment with pyvene 0.1.8

It was made with torch 2.13 and transformers 5.23. Nothing else imports this file.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyvene
import torch
from pyvene_cases import CASES, REFERENCE, WIDTH, Case, formula, ids, model, parameter, rotation
from pyvene_nets import BY_HAND, NETS, Net, inputs, net_of
from safetensors.torch import save_file
from torch import Tensor

SAVED = ("interchange", "constant", "add", "rotation", "low_rank", "low_rank_columns", "boundless", "mask", "rotated_mask", "jumprelu",
         "zero", "collect", "skip", "partition", "two_sources", "a_shared_source", "a_chain", "joined_positions", "shared_weights",
         "a_head", "values", "neurons", "steered_always")  # fmt: skip


def intervenable(wanted: Case, module: Any, named: str) -> Any:
    """pyvene's model of a case, its parameters set by the formula."""
    items = []
    for item in wanted.pyvene:
        kept = {key: value for key, value in item.items() if key != "type"}
        if wanted.given is not None:
            items.append(kept | {"intervention": wanted.given})
        elif item["type"] == "PCARotatedSpaceIntervention":
            pca = SimpleNamespace(components_=rotation().T.numpy())
            mean, spread = formula((WIDTH,), 3).numpy(), formula((WIDTH,), 4).abs().numpy() + 0.5
            kind = pyvene.models.interventions.PCARotatedSpaceIntervention
            items.append(kept | {"intervention": kind(pca=pca, pca_mean=mean, pca_std=spread, embed_dim=WIDTH)})
        else:
            items.append(kept | {"intervention_type": getattr(pyvene.models.interventions, item["type"])})
    made = pyvene.IntervenableModel(pyvene.IntervenableConfig(items, mode=wanted.mode), module)
    for intervention in made.interventions.values():
        for there in wanted.setting:
            holder, _, last = there.rpartition(".")
            owner = intervention.get_submodule(holder)
            value = parameter(named, there, getattr(owner, last).shape)
            if holder:
                owner.weight = value
            else:
                getattr(owner, last).data.copy_(value)
    return made


def outputs(wanted: Case, made: Any) -> Tensor:
    """Logits (2, 6, vocabulary), or new tokens, or what was collected."""
    sources = [None if run is None else {"input_ids": ids(run)} for run in wanted.sources] or None
    if wanted.generate is not None:
        _, tokens = made.generate(
            {"input_ids": ids("base")}, sources, unit_locations=wanted.locations, **wanted.generate,
            max_new_tokens=6, min_new_tokens=6, do_sample=False,
        )  # fmt: skip
        return tokens[:, 6:]
    with torch.no_grad():
        original, found = made({"input_ids": ids("base")}, sources, wanted.locations, subspaces=wanted.subspaces)
    if wanted.pyvene[0]["type"] == "CollectIntervention":
        return torch.cat([part.reshape(2, -1) for part in original[1]])
    return found.logits


def gradient(name: str) -> Tensor:
    """Of the sum of squared logits, to the numbers of a mask."""
    made = intervenable(CASES["mask"], model(name), "mask")
    source, places = [{"input_ids": ids("source")}], CASES["mask"].locations
    _, found = made({"input_ids": ids("base")}, source, places)
    (found.logits**2).sum().backward()
    return next(iter(made.interventions.values())).mask.grad


def of_net(case: str, net: Net) -> Tensor:
    """What the net returns, (2, steps, width). pyvene's recurrent nets take one example at a time."""
    base, source = inputs(net.family, "base"), inputs(net.family, "source")
    if case in BY_HAND:
        there, here = (places[0][0] for places in net.case.locations["sources->base"])
        lower, _ = by_hand(source, {})
        return by_hand(base, {to: lower[step] for step, to in zip(there, here, strict=True)})[1]
    found = []
    for rows in [[0], [1]] if net.family == "gru" else [[0, 1]]:
        made = intervenable(net.case, net_of(net.family, pyvene), case)
        places = {
            key: tuple([unit[: len(rows)] for unit in side] for side in both)
            for key, both in net.case.locations.items()
        }
        with torch.no_grad():
            _, result = made(
                {"inputs_embeds": base[rows]}, [{"inputs_embeds": source[rows]}], places, subspaces=net.case.subspaces
            )
        found.append(result[0])
    return torch.cat(found)


@torch.no_grad()
def by_hand(values: Tensor, written: dict[int, Tensor]) -> tuple[list[Tensor], Tensor]:
    """The lower layer's states at each step, and the upper's (batch, steps, width), pyvene's cells run with states written."""
    lower, upper = net_of("gru", pyvene).cells
    below, above = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0])
    states, found = [], []
    for step, value in enumerate(values.unbind(1)):
        below = written.get(step, lower(value, below))
        above = upper(below, above)
        states.append(below)
        found.append(above)
    return states, torch.stack(found, 1)


def main() -> None:
    found: dict[str, Tensor] = {}
    texts: dict[str, str] = {}
    for name in ("gpt2", "llama"):
        found[f"{name}/gradient"] = gradient(name)
        for case, wanted in CASES.items():
            try:
                made = intervenable(wanted, model(name), case)
                found[f"{name}/{case}"] = outputs(wanted, made)
            except Exception as error:  # pyvene refuses or breaks: said, and not compared
                print(f"{name}/{case}: {type(error).__name__}: {str(error)[:200]}")
                continue
            if case not in SAVED or name == "llama":
                continue
            with tempfile.TemporaryDirectory() as folder:
                made.save(folder)
                texts[f"saved/{case}"] = Path(folder, "config.json").read_text()
                for file in Path(folder).glob("*.bin"):
                    for key, tensor in torch.load(file, weights_only=True).items():
                        found[f"saved/{case}/{file.name}/{key}"] = tensor
    for case, net in NETS.items():
        found[f"net/{case}"] = of_net(case, net)
    save_file({key: value.detach().clone().contiguous() for key, value in found.items()}, REFERENCE, metadata=texts)
    print(f"{len(found)} tensors, {REFERENCE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
