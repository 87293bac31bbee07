"""A training step beside nanoGPT's: the same sizes, the same batches' shape, one process, in turn.

    python benchmarks/training.py --nanogpt PATH/nanoGPT --text PATH/input.txt [--eager] [--rounds 12]

nanoGPT's CPU setting for Shakespeare by characters (4 layers, 4 heads, width 128, context 64, batches of 12), its own model.py, run eager
with fused AdamW as its train.py does a step: forward, backward, clip, step, the next batch. Ours is the job's own training: transformers'
Trainer with everything it does in a step, compiled unless ``--eager``. Both start from the same weights, and it is checked that their loss and
gradients are the same. After every so many steps of ours the same number of nanoGPT's are made and timed; evaluations are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rounds import Timing, ratios
from torch import Tensor, nn
from transformers import TrainerCallback

from layerwise.training.build import build_model
from layerwise.training.config import CheckpointConfig, EvaluationConfig, FitConfig, TrainingConfig
from layerwise.training.data_config import Characters, FilesData
from layerwise.training.fit import Listener, prepare_trainer
from layerwise.training.model_config import BuiltModel
from layerwise.training.optimization_config import AdamW, Constant
from layerwise.training.prepared import prepare_data

CONTEXT, BATCH, STEPS, WARM = 64, 12, 50, 50
SIZES = {"n_layers": 4, "n_heads": 4, "width": 128, "bias": False}


class NanoGPT:
    """nanoGPT's model, optimizer and step, with the weights of ours."""

    def __init__(self, folder: Path, ours: nn.Module, tokens: Tensor, compiled: bool) -> None:
        spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
        assert spec is not None
        assert spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        size = ours.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        config = module.GPTConfig(
            block_size=CONTEXT, vocab_size=size, n_layer=4, n_head=4, n_embd=128, dropout=0.0, bias=False
        )
        self.plain = module.GPT(config)
        copy_weights(ours, self.plain)
        groups = [
            {"params": [weight for weight in self.plain.parameters() if weight.dim() >= 2], "weight_decay": 0.1},
            {"params": [weight for weight in self.plain.parameters() if weight.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=True)
        self.model = torch.compile(self.plain) if compiled else self.plain
        self.tokens = tokens

    def batch(self) -> tuple[Tensor, Tensor]:
        """As its ``get_batch``."""
        starts = torch.randint(len(self.tokens) - CONTEXT, (BATCH,))
        rows = [self.tokens[start : start + CONTEXT + 1].long() for start in starts]
        return torch.stack([row[:-1] for row in rows]), torch.stack([row[1:] for row in rows])

    def steps(self, count: int) -> None:
        inputs, targets = self.batch()
        for _ in range(count):
            _, loss = self.model(inputs, targets)
            inputs, targets = self.batch()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.plain.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def copy_weights(ours: Any, theirs: Any) -> None:
    """Ours into nanoGPT's modules."""
    body = ours.body
    with torch.no_grad():
        theirs.transformer.wte.weight.copy_(body.token_embedding.weight)
        theirs.transformer.wpe.weight.copy_(body.positions.table.weight)
        theirs.transformer.ln_f.weight.copy_(body.final_norm.weight)
        for block, mine in zip(theirs.transformer.h, body.blocks, strict=True):
            block.ln_1.weight.copy_(mine.attention_norm.weight)
            block.ln_2.weight.copy_(mine.feed_forward_norm.weight)
            block.attn.c_attn.weight.copy_(mine.attention.qkv_proj.weight)
            block.attn.c_proj.weight.copy_(mine.attention.out_proj.weight)
            block.mlp.c_fc.weight.copy_(mine.feed_forward.up_proj.weight)
            block.mlp.c_proj.weight.copy_(mine.feed_forward.down_proj.weight)


def check_equal(ours: Any, theirs: Any, tokens: Tensor) -> None:
    """Loss and the gradient of the embeddings, to 1e-5."""
    ids = torch.stack([tokens[start : start + CONTEXT].long() for start in range(0, BATCH * CONTEXT, CONTEXT)])
    mine = ours(input_ids=ids, labels=ids).loss
    logits, _ = theirs(ids, ids)
    other = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    gradients = (
        torch.autograd.grad(mine, ours.body.token_embedding.weight),
        torch.autograd.grad(other, theirs.transformer.wte.weight),
    )
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0][0], gradients[1][0], atol=1e-5, rtol=1e-4)
    print(f"loss {mine.detach():.6f} and {other.detach():.6f}; gradients equal to 1e-5")


class Turns(TrainerCallback):
    """After every ``STEPS`` steps of ours, as many of nanoGPT's; the first ones of each do not count."""

    def __init__(self, others: dict[str, NanoGPT]) -> None:
        self.others = others
        self.timings = {name: Timing([], []) for name in ("ours", *others)}
        self.begin = (0.0, 0.0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % STEPS or state.global_step == 0:
            return
        counts = state.global_step > WARM
        if counts:
            self._record("ours", self.begin)
        for name, other in self.others.items():
            begin = time.perf_counter(), time.process_time()
            other.steps(STEPS)
            if counts:
                self._record(name, begin)
        self.begin = time.perf_counter(), time.process_time()

    def _record(self, name: str, begin: tuple[float, float]) -> None:
        self.timings[name].wall.append(time.perf_counter() - begin[0])
        self.timings[name].processor.append(time.process_time() - begin[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", required=True, help="Karpathy's input.txt, or any text")
    parser.add_argument("--eager", action="store_true", help="do not compile ours")
    parser.add_argument("--compiled", action="store_true", help="time nanoGPT compiled too")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    data = prepare_data(FilesData(path=given.text, sample="document", test=0.0), Characters(), CONTEXT)
    model = build_model(BuiltModel(**SIZES), data.tokenizer, CONTEXT, 0)  # type: ignore[arg-type]
    tokens = data.train.tokens  # type: ignore[attr-defined]
    others = {"nanoGPT": NanoGPT(given.nanogpt, model, tokens, compiled=False)}
    if given.compiled:
        others["nanoGPT compiled"] = NanoGPT(given.nanogpt, model, tokens, compiled=True)
    check_equal(model, others["nanoGPT"].plain, tokens)
    steps = WARM + given.rounds * STEPS
    config = FitConfig(
        optimizer=AdamW(learning_rate=1e-3, weight_decay=0.1, beta2=0.99),
        schedule=Constant(),
        training=TrainingConfig(steps=steps, batch_size=BATCH, compile=not given.eager, device="cpu"),
        evaluation=EvaluationConfig(every=steps, samples=BATCH, texts=0, log_every=10),
        checkpoints=CheckpointConfig(every=0),
    )
    turns = Turns(others)
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = prepare_trainer(model, data, config, Path(folder), Listener())
        trainer.add_callback(turns)
        trainer.train()
    per_step = {f"{name}, {STEPS} steps of {BATCH} × {CONTEXT}": timing for name, timing in turns.timings.items()}
    reference = next(name for name in per_step if name.startswith("nanoGPT,"))
    print(ratios(per_step, reference))


if __name__ == "__main__":
    main()
