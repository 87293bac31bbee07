"""Sites: the names of tensors inside a forward pass, and the map of those one model has.

A decoder or encoder                     an encoder-decoder
  embed                                    encoder.embed            decoder.embed
  resid_pre.0                              encoder.resid_pre.0      decoder.resid_pre.0
    q.0 k.0 v.0 pattern.0 z.0              encoder.q.0 …            decoder.q.0 …
    attn_out.0                             encoder.attn_out.0       decoder.attn_out.0
    resid_mid.0                            encoder.resid_mid.0      decoder.resid_mid.0
                                                                      cross_q.0 … cross_z.0
                                                                      cross_attn_out.0, resid_cross.0
    router.0 mlp_post.0 mlp_out.0          encoder.mlp_out.0 …      decoder.mlp_out.0 …
  resid_post.0                             encoder.resid_post.0     decoder.resid_post.0
  …                                        …                        …
  final_norm                               encoder.final_norm       decoder.final_norm
  logits                                                            logits

``name.layer`` or ``name.layer.head``; a layer or head is a number, a negative number, ``*`` or a range ``4-8``. Any
module may be named by its path with ``.input`` or ``.output``: ``model.layers[15].mlp.output``; ``*``, or a range of numbers, stands
for one part of a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cached_property

from torch import nn

from layerwise.errors import UserError, nearest
from layerwise.models.architecture import Stack
from layerwise.models.names import Site, parse_site, select, split_site
from layerwise.models.ports import Port

__all__ = ["Site", "SiteMap", "parse_site"]


class SiteMap:
    """The sites one model has.

    ``SiteMap.of`` resolves a transformers model and verifies with a probe forward what it found; ``SiteMap.raw`` is
    for any other module, whose sites are its modules' paths.
    """

    def __init__(
        self,
        module: nn.Module,
        stacks: Sequence[Stack] = (),
        ports: dict[str, Port] | None = None,
        repeated: frozenset[str] = frozenset(),
        refused: str = "",
    ) -> None:
        self.module = module
        self.stacks = {stack.prefix: stack for stack in stacks}
        self.ports = ports or {}
        self.repeated = repeated
        self.refused = refused

    @classmethod
    def of(cls, module: nn.Module) -> SiteMap:
        """The verified map of a transformers model; what fails its verification is left out and ``refused`` says why."""
        from layerwise.models.verify import resolve  # it runs the model through the taps, which stand on this file

        return resolve(module)

    @classmethod
    def raw(cls, module: nn.Module) -> SiteMap:
        return cls(module)

    @property
    def _main(self) -> Stack:
        if not self.stacks:
            raise UserError(
                f"this model has no named sites{self._because}.\nName a module by its path, such as layer.output."
            )
        return next(iter(self.stacks.values()))

    @property
    def n_layers(self) -> int:
        """Blocks in the model; of an encoder-decoder, in its encoder (``stacks['decoder.'].n_layers`` has the other)."""
        return self._main.n_layers

    @property
    def width(self) -> int:
        return self._main.width

    @property
    def n_heads(self) -> int:
        return self._main.n_heads

    @property
    def n_kv_heads(self) -> int:
        return self._main.n_kv_heads

    @cached_property
    def _names(self) -> dict[str, list[int]]:
        """The names this model has, each with the layers that have it."""
        names: dict[str, list[int]] = {}
        for key in self.ports:
            name, _, layer = key.rpartition(".")
            if layer.isdigit():
                names.setdefault(name, []).append(int(layer))
            else:
                names[key] = []
        return names

    def names(self) -> list[str]:
        """The names of the sites this model has, without layers, in the order they run."""
        return list(self._names)

    def expand(self, spec: str | Iterable[str]) -> list[str]:
        """The canonical names of all sites meant: a name, a comma list, or several of them.

        >>> sites.expand("resid_post.0-1, z.-1.*")  # doctest: +SKIP
        ['resid_post.0', 'resid_post.1', 'z.1.0', 'z.1.1', 'z.1.2', 'z.1.3']

        Each site once, in the order asked. Raises UserError for one that this model does not have.
        """
        texts = [spec] if isinstance(spec, str) else list(spec)
        parts = [part.strip() for text in texts for part in text.split(",")]
        if not any(parts):
            raise UserError(f"no site was named, got {spec!r}.\nSites of this model: {', '.join(self.names())}.")
        return list(dict.fromkeys(site for part in parts if part for site in self._expand_one(part)))

    def _expand_one(self, text: str) -> list[str]:
        name, layer, head = split_site(text)
        if name.endswith((".input", ".output")):
            return self._expand_path(name)
        if name not in self._names:
            raise self._missing(name)
        layers = self._names[name]
        if layer is None:
            return [name]
        chosen = select(layer, self._stack(name).n_layers, "layer", text)
        lacking = [index for index in chosen if index not in layers]
        if lacking and layer != "*":
            raise UserError(f"layer {lacking[0]} of this model has no {name}; layers that have it: {_spans(layers)}.")
        sites = [f"{name}.{index}" for index in chosen if index in layers]
        if head is None:
            return sites
        return [f"{site}.{index}" for site in sites for index in select(head, self.heads_of(name), "head", text)]

    def _expand_path(self, text: str) -> list[str]:
        path, _, side = text.rpartition(".")
        paths = [known for known, _ in self.module.named_modules() if known]
        found = [f"{known}.{side}" for known in paths if _path_matches(known, path)]
        if not found:
            by_name = "\nSites by name, such as mlp_out.5, fit every architecture." if self.stacks else ""
            raise UserError(f"the model has no module {path!r}.{nearest(path, paths)}{by_name}")
        return found

    def _missing(self, name: str) -> UserError:
        if self.stacks and any(f"{prefix}{name}" in self._names for prefix in self.stacks if prefix):
            return UserError(f"this model has two stacks: write encoder.{name} or decoder.{name}.")
        has = (
            f"It has: {', '.join(self.names())}." if self.ports else "Name a module by its path, such as layer.output."
        )
        return UserError(f"this model has no site {name}{self._because}.{nearest(name, self.names())}\n{has}")

    @property
    def _because(self) -> str:
        return f" ({self.refused})" if self.refused else ""

    def stack_of(self, site: str) -> Stack:
        """The stack a site or raw path lies in (the first for a path outside all)."""
        if site.endswith((".input", ".output")):
            return next((stack for stack in self.stacks.values() if site.startswith(f"{stack.path}.")), self._main)
        return self._stack(parse_site(site).name)

    def _stack(self, name: str) -> Stack:
        prefix = name.rpartition(".")[0]
        return self.stacks[f"{prefix}." if prefix else "decoder." if "decoder." in self.stacks else ""]

    def one(self, text: str) -> Site:
        """The one site a name means, canonical. Raises UserError where it means several or none."""
        found = self.expand(text)
        if len(found) != 1:
            raise UserError(f"{text!r} means {len(found)} sites; one is wanted here, such as {found[0]}.")
        return parse_site(found[0])

    def port(self, site: Site) -> Port:
        """Where a site's tensor passes. Raises UserError for a module that runs several times in one forward."""
        if site.is_path:
            path, _, side = site.name.rpartition(".")
            port = Port(path, "input" if side == "input" else "output")
        else:
            port = self.ports[str(Site(site.name, site.layer))]
        if port.path in self.repeated:
            raise UserError(
                f"{site} is ambiguous: the module {port.path} runs several times in one forward (its weights are shared)."
            )
        return port

    def heads_of(self, name: str) -> int:
        """How many heads a site has: key-value heads for ``k`` and ``v``, query heads for ``q``, ``z``, ``pattern``."""
        stack = self._stack(name)
        return stack.n_kv_heads if Site(name).kind in ("k", "v") else stack.n_heads

    def layer_of(self, site: str) -> int | None:
        """The layer a site or raw path lies in; None for what lies in none (``embed``, ``final_norm``, ``logits``)."""
        parsed = parse_site(site)
        if not parsed.is_path:
            if parsed.layer is not None and parsed.layer < 0:
                return parsed.layer + self._stack(parsed.name).n_layers
            return parsed.layer
        for stack in self.stacks.values():
            match = re.match(re.escape(stack.path) + r"\.(\d+)\.", parsed.name)
            if match:
                return int(match[1])
        return None

    def width_of(self, site: str) -> int | None:
        """Numbers a token has at a site, heads side by side; None for ``pattern`` and where only a run can tell."""
        parsed = self.one(site)
        if parsed.is_path:
            return None
        if parsed.kind in ("q", "k", "v", "pattern"):
            mix = self.ports.get(str(Site(parsed.name.replace(parsed.kind, "z"), parsed.layer)))
            if parsed.kind == "pattern" or mix is None or mix.width is None:
                return None
            size = mix.width // self._stack(parsed.name).n_heads
            return size if parsed.head is not None else size * self.heads_of(parsed.name)
        port = self.ports[str(Site(parsed.name, parsed.layer))]
        if parsed.head is not None and port.width is not None:
            return port.width // port.heads
        return port.width


def _spans(numbers: list[int]) -> str:
    """'0-3, 7' for [0, 1, 2, 3, 7]."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) or "none"


def _path_matches(path: str, pattern: str) -> bool:
    """Whether a module path matches one with ``*``, or a range such as ``4-8``, for whole parts."""
    parts, wanted = path.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(_part_matches, parts, wanted))


def _part_matches(part: str, wanted: str) -> bool:
    ends = re.fullmatch(r"(\d+)-(\d+)", wanted)
    if ends and part.isdigit():
        return int(ends[1]) <= int(part) <= int(ends[2])
    return fnmatchcase(part, wanted)
