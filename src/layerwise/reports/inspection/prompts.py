"""What a model wrote and what it expected next, as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from layerwise.reports.token_view import number, page, visible

if TYPE_CHECKING:
    from layerwise.training.inspection.next_token import NextTokens
    from layerwise.training.inspection.sampling import Sample

_STYLE = """
.prompt { color: #595959; } .written { border-bottom: 2px solid #444; } .sample { white-space: pre-wrap; overflow-wrap: anywhere; }
.share { background: #9cc3e6; display: inline-block; height: .7rem; } table.next { width: auto; } td.token { font-family: ui-monospace, monospace; }
"""


def prompts_page(
    model: str,
    way: str,
    samples: Sequence[Sequence[Sample]],
    expected: Mapping[str, NextTokens],
    count: int,
) -> str:
    """Per prompt its samples, with their probability, and the ``count`` tokens most expected next."""
    prompts = [rows[0].prompt for rows in samples] or list(expected)
    written = {rows[0].prompt: rows for rows in samples}
    parts = []
    for prompt in dict.fromkeys(prompts):
        parts.append(f"<h2>{escape(prompt) or 'from the beginning of a text'}</h2>")
        for one in written.get(prompt, ()):
            note = f"{number(one.log_p)} nats over {len(one.ids)} tokens{', ended by the model' if one.ended else ''}"
            parts.append(
                f'<p class="sample"><span class="prompt">{escape(one.prompt)}</span><span class="written">{escape(one.text)}</span>'
                f' <span class="number">{note}</span></p>'
            )
        if prompt in expected:
            parts.append(_expected(expected[prompt], count))
    return page(f"{model}: {way}" if samples else f"{model}: what comes next", parts, _STYLE)


def _expected(found: NextTokens, count: int) -> str:
    rows = "".join(
        f'<tr><td class="score">{row["rank"]}</td><td class="token">{escape(visible(row["token"]))}</td>'
        f'<td class="score">{row["p"]:.4f}</td><td><span class="share" style="width:{row["p"] * 14:.2f}rem"></span></td></tr>'
        for row in found.top(count).to_dict("records")
    )
    head = '<tr><th class="score">rank</th><th>next token</th><th class="score">probability</th><th></th></tr>'
    note = f'<p class="number">entropy {number(found.entropy)} nats over {len(found.ids):,} tokens</p>'
    return f'<table class="next">{head}{rows}</table>{note}'
