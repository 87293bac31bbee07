"""Plans over processes: DDP and FSDP of accelerate and torch give the gradients of one process, on two CPU processes with gloo."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import sys
sys.path[:0] = [{models!r}]
import torch
import torch.distributed as dist
from accelerate import Accelerator
from families import build, texts
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from layerwise.interventions.intervened import Intervened
from layerwise.interventions.plan import Plan
from layerwise.models.batch import make_batch
from layerwise.models.model import LanguageModel

PLAN = Plan.read("""
steps:
- {{operation: {{kind: low_rank_rotation, rank: 2}}, sites: resid_post.0, positions: last}}
- {{operation: {{kind: mask}}, sites: mlp_out.1, positions: last}}
- {{operation: {{kind: lora, rank: 2}}, sites: mlp_out.0}}
""")


def made(train_model=False):
    model = LanguageModel(build.__wrapped__("llama"), None, "llama")
    model.sites  # verified before any of it is sharded
    intervened = Intervened(model, PLAN, train_model=train_model)
    with torch.no_grad():
        for name, parameter in intervened.operations.named_parameters():
            if name.endswith(".B"):
                parameter.fill_(0.1)
    return intervened


def loss(run, rows):
    base, source = (make_batch(Shapes, texts(5, 4, 6, 3, 4, 5, 6, 5), indices) for indices in (rows, [row + 4 for row in rows]))
    logits = run(base, {{"source": source}}).logits
    return (logits[base.mask] ** 2).sum() / len(rows)


def gradients(module):
    return {{name: (grad.full_tensor() if isinstance(grad := parameter.grad, DTensor) else grad)
            for name, parameter in module.named_parameters() if parameter.grad is not None}}


accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
assert str(accelerator.distributed_type).endswith("MULTI_CPU")
Shapes = made().model
rank = accelerator.process_index
mine = [0, 1] if rank == 0 else [2, 3]
for train_model in (False, True):
    alone = made(train_model)
    ((loss(alone, [0, 1]) + loss(alone, [2, 3])) / 2).backward()
    wanted = gradients(alone)
    assert bool([name for name in wanted if name.startswith("module.")]) == train_model

    wrapped = accelerator.prepare(made(train_model))
    assert type(wrapped).__name__ == "DistributedDataParallel"
    accelerator.backward(loss(wrapped, mine))
    found = gradients(accelerator.unwrap_model(wrapped))
    assert set(found) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"DDP {{name}}: {{text}}")

    sharded = made(train_model)
    for block in sharded.model.module.model.layers:
        fully_shard(block)
    fully_shard(sharded.model.module.model)  # sources run the body alone, so it is a unit
    if not train_model:
        for operation in sharded.operations.values():
            fully_shard(operation)
    fully_shard(sharded)
    loss(sharded, mine).backward()
    held = sum(parameter.to_local().numel() for parameter in sharded.parameters())
    assert held < sum(parameter.numel() for parameter in sharded.parameters())  # each holds a part
    found = gradients(sharded)
    assert set(found) == set(wanted)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"FSDP {{name}}: {{text}}")
accelerator.print("the same")
dist.destroy_process_group()
'''


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """Operations trained alone, and with the model; each process its own half of the texts."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(models=str(Path(__file__).parents[1] / "models")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", str(script)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the same" in done.stdout
