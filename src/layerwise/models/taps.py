"""Taps: one engine for reading and writing the sites of a model while it runs.

Plain hooks, put on and always taken off, that touch no one else's. A read may pool inside the hook, so a batch never
holds more than the pooled result; a forward stops as soon as the last site that is wanted has been read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import Cache

from layerwise.errors import UserError
from layerwise.models.architecture import body_of, path_of
from layerwise.models.attention import inside
from layerwise.models.batch import Batch
from layerwise.models.ports import Port, first_tensor, input_key, with_first_tensor, with_input
from layerwise.models.restart import Start, restarted
from layerwise.models.sites import Site, SiteMap, parse_site

Read = Callable[[Tensor], Tensor] | None  # None keeps the whole tensor
Write = Callable[[Tensor], Tensor]


def nothing(value: Tensor) -> Tensor:
    """A read that keeps nothing: the forward goes as far as its site."""
    return value.new_empty(0)


class Tappable(Protocol):
    """What taps need of a model: its module and the map of its sites."""

    @property
    def module(self) -> nn.Module: ...
    @property
    def sites(self) -> SiteMap: ...


class _Enough(Exception):
    """Everything wanted has been read; never seen outside :func:`run`."""


@dataclass(eq=False)
class _Forward:
    """What the gates of one context share: results, the batch size now running, and what is still to be read."""

    stops: bool
    once: bool  # a gate that opens twice in one forward is an error
    captured: dict[str, Tensor] = field(default_factory=dict)
    gates: list[_Gate] = field(default_factory=list)
    unread: int = 0  # gates with reads that have not opened yet
    passed: set[int] = field(default_factory=set)
    batch: int = 0

    def begin(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """A pre-hook on a plain model: a new forward begins."""
        self.passed.clear()

    def measure(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        """A pre-hook on a first block: how many texts run now (some blocks lay all tokens in one row)."""
        tensor = first_tensor([*args, *kwargs.values()])
        self.batch = 0 if tensor is None else tensor.shape[0]


@dataclass(eq=False)
class _Gate:
    """All that is wanted at one port: its writes in order, then its reads, which see what was written."""

    port: Port
    forward: _Forward
    site: str
    writes: list[tuple[int | None, Write]] = field(default_factory=list)
    reads: list[tuple[str, int | None, Read]] = field(default_factory=list)

    def __call__(self, value: Tensor) -> Tensor:
        """Lets a tensor through; the very same object comes out unless it was written."""
        forward = self.forward
        if forward.once:
            if id(self) in forward.passed:
                raise UserError(f"{self.site} is ambiguous: its module runs several times in one forward.")
            forward.passed.add(id(self))
        seen = shaped = self.port.shaped(value, forward.batch)
        for head, write in self.writes:
            seen = _written(seen, head, write, self.port)
        if seen is not shaped:
            new = self.port.restored(seen, value)
            value = value.copy_(new) if self.port.shared else new
        for key, head, read in self.reads:
            part = seen if head is None else seen.select(self.port.head_axis, head)
            result = part if read is None else read(part)
            # A view of a part would keep all of it; a tensor that is yet to change must be kept as it is now.
            fragile = self.port.changed or self.port.shared or result.numel() < value.numel()
            if fragile and _same_memory(result, value):
                result = result.clone()
            forward.captured[key] = result
        if self.reads and forward.stops:
            forward.unread -= 1
            if not forward.unread:
                raise _Enough
        return value

    def hook(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """A forward hook: the module's output through the gate."""
        value = first_tensor(output.logits if self.port.path == "" else output)
        if value is None:
            raise UserError(f"{self.site} holds no tensor: {type(module).__name__} returns {type(output).__name__}.")
        seen = self(value)
        if seen is value:
            return None
        if self.port.path == "":
            output.logits = seen
            return output
        return with_first_tensor(output, seen)

    def pre_hook(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """A forward pre-hook: the module's input through the gate."""
        key = input_key(args, kwargs, self.port.path)
        value = args[key] if isinstance(key, int) else kwargs[key]
        seen = self(value)
        if seen is value:
            return None
        return with_input(args, kwargs, key, seen)


def _written(value: Tensor, head: int | None, write: Write, port: Port) -> Tensor:
    """The tensor after one write, of all of it or of one head. Raises UserError where the shape changes."""
    # A tensor changed in place later must not be the one autograd keeps for this write.
    part = value.clone() if port.shared else value
    part = part if head is None else part.select(port.head_axis, head)
    new = write(part)
    if new.shape != part.shape:
        raise UserError(f"a write must keep the shape {tuple(part.shape)}, but gave {tuple(new.shape)}.")
    if new is part and head is None:
        return value if not port.shared else part
    if new.dtype != value.dtype:
        new = new.to(value.dtype)
    if head is None:
        return new
    heads = list(value.unbind(port.head_axis))
    heads[head] = new
    return torch.stack(heads, port.head_axis)


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


@contextmanager
def tapped(
    model: Tappable,
    reads: Mapping[str, Read] | None = None,
    writes: Mapping[str, Write] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The model with reads and writes at its sites, for the time of the context; usable around ``generate``.

    ``reads``: by site, a function of the tensor there (shapes: DESIGN, "Sites") whose result is kept, or None to keep
    the tensor. ``writes``: by site, a function from the tensor to the one that goes on in its place, of equal shape.
    At one site a read sees what was written. Contexts nest; the outer one's writes come first.

    Yields a dict that fills while the model runs, the latest forward's values last. A key that means one site is
    kept as it was typed; one that means several (``resid_post.*``) becomes their canonical names. Around ``generate``
    with a cache, ``k``, ``v`` and the last axis of ``pattern`` count the tokens of the cache too.

    Raises UserError for a site the model does not have.
    """
    with _tapped(model, reads or {}, writes or {}, stops=False) as forward:
        yield forward.captured


@contextmanager
def _tapped(
    model: Tappable, reads: Mapping[str, Read], writes: Mapping[str, Write], *, stops: bool
) -> Iterator[_Forward]:
    root = model.module
    forward = _gates(model.sites, reads, writes, stops)
    with ExitStack() as stack:

        def keep(handle: Any) -> None:
            stack.callback(handle.remove)

        if not model.sites.stacks:
            keep(root.register_forward_pre_hook(forward.begin, with_kwargs=True))
        for blocks in model.sites.stacks.values():
            keep(root.get_submodule(blocks.block(0)).register_forward_pre_hook(forward.measure, with_kwargs=True))
        points: dict[nn.Module, dict[str, Any]] = {}
        for gate in forward.gates:
            module = gate.port.module(root)
            if gate.port.side == "output":
                keep(module.register_forward_hook(gate.hook, with_kwargs=True))
            elif gate.port.side == "input":
                keep(module.register_forward_pre_hook(gate.pre_hook, with_kwargs=True))
            else:
                points.setdefault(module, {})[gate.port.inside] = gate
        stack.enter_context(inside(root, points))
        yield forward


def _gates(sites: SiteMap, reads: Mapping[str, Read], writes: Mapping[str, Write], stops: bool) -> _Forward:
    """One gate for each port that something is wanted at."""
    forward = _Forward(stops=stops, once=not sites.stacks)
    by_port: dict[Port, _Gate] = {}

    def gate(site: Site) -> _Gate:
        port = sites.port(site)
        if port not in by_port:
            by_port[port] = _Gate(port, forward, str(site))
            forward.gates.append(by_port[port])
        return by_port[port]

    for text, write in writes.items():
        for name in sites.expand(text):
            site = parse_site(name)
            gate(site).writes.append((site.head, write))
    for text, read in reads.items():
        names = sites.expand(text)
        for name in names:
            site = parse_site(name)
            gate(site).reads.append((text if len(names) == 1 else name, site.head, read))
    forward.unread = sum(bool(gate.reads) for gate in forward.gates)
    return forward


def run(
    model: Tappable,
    batch: Batch,
    reads: Mapping[str, Read] | None = None,
    writes: Mapping[str, Write] | None = None,
    *,
    logits: bool = False,
    start: Start | None = None,
    cache: Cache | None = None,
    grad: bool = False,
) -> dict[str, Tensor]:
    """One forward pass over a batch; what was read, as in :func:`tapped`.

    It ends once the last wanted site has been read, so one layer at depth l of L costs (l + 1)/L of a pass. The
    language-model head runs only if ``logits`` asks for it (then they are under 'logits', (batch, tokens, vocabulary),
    scaled and capped as the model does it) or a site behind it is named. ``start`` begins at a layer from its stored
    residuals. ``cache`` holds keys and values of tokens before the batch's, and takes in the batch's own. Gradients are
    recorded only with ``grad``.
    """
    reads = dict(reads or {})
    if logits:
        reads.setdefault("logits", None)
    root = model.module
    stops = bool(reads) and bool(model.sites.stacks)  # of a plain module it is not known what runs how often
    with ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(grad))
        forward = stack.enter_context(_tapped(model, reads, writes or {}, stops=stops))
        if start is not None:
            _check_start(model.sites, forward, start)
        stack.enter_context(restarted(model, start))
        module = _module_to_run(root, forward)
        kept = single_pass(root, module) if cache is None else {"past_key_values": cache, "use_cache": True}
        with suppress(_Enough):
            module(**batch.inputs, **kept)
    missing = [key for gate in forward.gates for key, _, _ in gate.reads if key not in forward.captured]
    if missing:
        raise UserError(f"{missing[0]} was not reached: its module did not run in this forward.")
    return forward.captured


def _check_start(sites: SiteMap, forward: _Forward, start: Start) -> None:
    """Raises UserError for a tap on a block that the restart skips."""
    first = sites.one(start.site)
    stack = first.name.removesuffix("resid_pre")
    for gate in forward.gates:
        layer = sites.layer_of(gate.site)
        if layer is not None and layer < (first.layer or 0) and sites.stack_of(gate.site).prefix == stack:
            raise UserError(f"{gate.site} lies before {first}, where this forward starts.")


def _module_to_run(root: nn.Module, forward: _Forward) -> nn.Module:
    """The body, or the whole model where a site outside the body is wanted."""
    body = body_of(root)
    if body is root:
        return root
    prefix = path_of(root, body)
    within = all(gate.port.path == prefix or gate.port.path.startswith(prefix + ".") for gate in forward.gates)
    return body if within else root


def single_pass(root: nn.Module, module: nn.Module) -> dict[str, Any]:
    """Arguments that keep a forward from building what a single pass does not need: a key-value cache."""
    # Models that share keys and values between layers do so through the cache.
    shares = getattr(getattr(root, "config", None), "num_kv_shared_layers", None)
    return {"use_cache": False} if "use_cache" in inspect.signature(module.forward).parameters and not shares else {}
