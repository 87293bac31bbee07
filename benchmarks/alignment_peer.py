"""pyvene in a process of its own, training the same rotation on the same pairs when told to: see alignment.py.

Reads one JSON line {"seed", "layer", "position", "rank" (null: full), "size", "rate", "basis", "base", "source", "right", "candidates"}; then for
each line "go" trains one epoch over the batches and writes {"seconds", "processor", "losses"}; "losses" writes those of the basis as it is.
"""

from __future__ import annotations

import json
import sys
import time

import pyvene
import torch
from transformers import GPT2Config, GPT2LMHeadModel


def main() -> None:
    torch.set_num_threads(1)
    task = json.loads(sys.stdin.readline())
    torch.manual_seed(task["seed"])
    model = GPT2LMHeadModel(GPT2Config()).eval()
    kind = pyvene.RotatedSpaceIntervention if task["rank"] is None else pyvene.LowRankRotatedSpaceIntervention
    place = {"layer": task["layer"], "component": "block_output", "intervention_type": kind}
    if task["rank"] is not None:
        place["low_rank_dimension"] = task["rank"]
    intervenable = pyvene.IntervenableModel(pyvene.IntervenableConfig([place]), model)
    intervenable.disable_model_gradients()
    own = next(iter(intervenable.interventions.values()))
    own = own[0] if isinstance(own, (list, tuple)) else own
    with torch.no_grad():
        own.rotate_layer.weight = torch.tensor(task["basis"])
    optimizer = torch.optim.Adam(intervenable.get_trainable_parameters(), lr=task["rate"])
    base, source, right = (torch.tensor(task[name]) for name in ("base", "source", "right"))
    candidates, at = torch.tensor(task["candidates"]), task["position"]
    subspaces = None if task["rank"] is not None else list(range(task["size"]))

    def loss(number: int) -> torch.Tensor:
        n = len(base[number])
        chosen = None if subspaces is None else [[subspaces] * n]
        _, output = intervenable(
            {"input_ids": base[number]},
            [{"input_ids": source[number]}],
            {"sources->base": ([[[at]] * n], [[[at]] * n])},
            subspaces=chosen,
        )
        return torch.nn.functional.cross_entropy(output.logits[:, -1, candidates], right[number])

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        losses = []
        wall, processor = time.perf_counter(), time.process_time()
        for number in range(len(base)):
            if line.strip() == "losses":
                with torch.no_grad():
                    losses.append(float(loss(number)))
                continue
            value = loss(number)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        print(json.dumps({"seconds": wall, "processor": processor, "losses": losses}), flush=True)


if __name__ == "__main__":
    main()
