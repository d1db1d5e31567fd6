"""The card of an export, its README.md: what the rows are, what of them is trained, how to use them, and limits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tosslm.export.kind import ExportKind
from tosslm.outward import outward

CARD = "README.md"
_TAGS = ["tosslm", "token-level-data-selection", "safe-fine-tuning", "not-for-all-audiences"]
_MARKS = re.compile(r"([\\`*_\[\]<>|#])")

_TEXT = """# {title}

**This data set contains the harmful text itself.** Tokens that were found risky are left out of the *labels*, not \
of the text: each row has its whole conversation, so that later tokens keep their context. Do not show the rows as \
good answers, and do not train on them without their labels.

Chat rows, tokenised, for fine-tuning with token-level data selection \
([TOSS](https://arxiv.org/abs/2603.01185)), written by tosslm {version}.

## What is in it

{files}

| | |
|---|---|
| rows | {rows} |
| tokens | {tokens}; the longest row has {longest} |
| response tokens that are trained | {trained} |
| response tokens that are not | {dropped} |
| rows that train on nothing | {nothing} |
| base | {base} |
| tokenizer | {tokenizer} |

The rows are tokens of that tokenizer: they fit no model with another one.

## What is not trained, and why

{choice}

{sources}
## How to use it

{use}

No row may be cut: a trainer that cuts at fewer than {longest} tokens loses some. `export.json` says how many rows.

## Limits

- {chosen_by}: harmful tokens may still be trained, and harmless ones are left out.
- A mask says where to train, and no more. It does not make an unsafe base safe.
- {license}
{lost}"""


def card(facts: Mapping[str, Any], kind: ExportKind) -> str:
    """The card, in Markdown, with the head that the Hub reads.

    Args:
        facts: of ``export.json``.
        kind: of the export.
    """
    hub = facts.get("hub") or {}
    chosen, base = facts["choice"], facts["base"]
    name = base["name"] + (f" (revision {base['revision']})" if base["revision"] else "")
    if base["adapter"]:
        name += f" with the adapter {base['adapter']} merged into it"
    text = _TEXT.format(
        title=_plain(hub.get("repo", facts["run"]["path"]).rstrip("/").rpartition("/")[2]),
        version=_plain(facts["run"]["versions"].get("tosslm", "")),
        files=f"`{kind.key}`: {kind.summary}.",
        rows=f"{facts['rows']:,}",
        tokens=f"{facts['tokens']:,}",
        longest=f"{facts['longest_row']:,}",
        trained=f"{facts['trained_tokens']:,}",
        dropped=f"{facts['dropped_tokens']:,}",
        nothing=f"{facts['rows_that_train_on_nothing']:,}",
        base=_plain(name),
        tokenizer=_tokenizer(facts["tokenizer"]),
        choice=_choice(chosen),
        chosen_by=_chosen_by(chosen),
        sources=_sources(chosen["sources"]),
        use=_use(kind, hub),
        license=_license(hub),
        lost="".join(f"- {_plain(sentence)}\n" for sentence in facts["lost"]),
    )
    return f"---\n{yaml.safe_dump(_head(facts, kind), sort_keys=False)}---\n\n{text}"


def _head(facts: Mapping[str, Any], kind: ExportKind) -> dict[str, Any]:
    """What the Hub reads: it would take ``export.json`` for rows, were it not told which files are."""
    license_ = (facts.get("hub") or {}).get("license")
    head: dict[str, Any] = {"license": license_} if license_ else {}
    head |= {"task_categories": ["text-generation"], "tags": _TAGS}
    if not kind.data:
        return head | {"viewer": False}
    files = [{"split": "train", "path": kind.data}]
    return head | {"configs": [{"config_name": "default", "data_files": files}]}


def _plain(text: object) -> str:
    """Foreign text as it stands: one line, and no markup of its own."""
    return _MARKS.sub(r"\\\1", outward(text))


def _tokenizer(tokenizer: Mapping[str, Any]) -> str:
    prints = ", ".join(f"`{file}` SHA-256 `{print_[:16]}…`" for file, print_ in sorted(tokenizer["files"].items()))
    return f"of the base: {prints}" if prints else "of the base"


def _choice(chosen: Mapping[str, Any]) -> str:
    fraction = chosen["discard_fraction"]
    lines = [
        f"- Method: {_plain(chosen['method'])}: {_plain(chosen['summary'])}. Source: {_plain(chosen['source'])}.",
        f"- Dropped: {chosen['discarded']:,} of {chosen['tokens']:,} response tokens"
        + (f", at a discard fraction of {fraction:g}." if fraction is not None else "."),
    ]
    for name, told in (
        ("harmful", "The degraded reference learnt from"),
        ("utility", "The utility reference learnt from"),
    ):
        if name == "utility" and chosen.get("utility"):
            lines.append(
                "- There was no utility set: two utility references learnt from rows of the custom set that look "
                "least risky, and each scored the half that it had not learnt from. Their weights are not in here."
            )
        elif found := chosen["references"].get(name):
            listed = ", ".join(f"{_plain(source)} ({count:,} rows)" for source, count in found.items())
            learnt = chosen["learnt_rows"].get(name)
            of = f"{learnt:,} rows, of " if learnt is not None else ""
            more = chosen["joined_rows"] if name == "harmful" else 0
            joined = f", and of {more:,} custom rows that joined them" if more else ""
            lines.append(f"- {told} {of}{listed}{joined}. Neither its data nor its weights are in here.")
    if not chosen["references"]:
        lines.append("- No reference model had a part in it.")
    if chosen["anchor_first"] is not None:
        lines.append(
            f"- Anchors: the run itself holds the model to the base at dropped tokens and at the first "
            f"{chosen['anchor_first']} of each answer; these have no label here."
        )
    return "\n".join(lines)


def _chosen_by(chosen: Mapping[str, Any]) -> str:
    if (by_hand := chosen.get("by_hand")) is None:
        return "No person chose what is dropped"
    return (
        f"People dropped {by_hand['dropped']:,} tokens and kept {by_hand['kept']:,} by hand; of all others no person "
        "chose what is dropped"
    )


def _sources(sources: Mapping[str, Mapping[str, int]]) -> str:
    if not sources:
        return ""
    lines = [
        f"| {_plain(name)} | {counts['rows']:,} | {counts['tokens']:,} | {counts['discarded']:,} |"
        for name, counts in sources.items()
    ]
    return "\n".join(["| source | rows | response tokens | dropped |", "|---|---|---|---|", *lines, "", ""])


def _use(kind: ExportKind, hub: Mapping[str, Any]) -> str:
    fetch = f"hf download {hub['repo']} --repo-type dataset --local-dir masked" if hub else ""
    lines = [f"```bash\n{fetch}\n```\n"] if fetch else []
    lines += [f"- {snippet.consumer}: `{snippet.file}`" for snippet in kind.snippets]
    return "\n".join(lines)


def _license(hub: Mapping[str, Any]) -> str:
    if hub.get("license"):
        return f"The rows are under the license that whoever uploaded them states: {_plain(hub['license'])}."
    return "No license is stated: ask whoever made the rows before you use them."
