"""A repository's card: what is in it, how small it is, how to read it and who can. The card that is there stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from slimtensors_hub.listing import LIBRARY
from slimtensors_hub.marks import add_front_matter, add_section, remove_marks
from slimtensors_hub.remote.names import shown

__all__ = ["CARD", "Facts", "Needed", "Weights", "extend_card", "restore_card"]

CARD = "README.md"
REPOSITORY = "https://pypi.org/project/slimtensors"


class Weights(NamedTuple):
    """A weight file: its path, what it gives back and what it takes, in bytes."""

    path: str
    before: int
    after: int


class Needed(NamedTuple):
    """A base that weights are differences from; repo_id is empty if it is on no hub. access: "", "gated", "private"."""

    repo_id: str
    commit: str
    access: str = ""


class Facts(NamedTuple):
    """What a card says."""

    repo_id: str
    weights: Sequence[Weights]
    bases: Sequence[Needed] = ()
    converted_from: str | None = None


def extend_card(card: bytes | None, facts: Facts) -> bytes:
    """The card with ours in its YAML and a section at its end; made if there is none.

    Where YAML of some odd kind would not survive, only the section is added.
    """
    before = None if card is None else restore_card(card)
    text = before or ""
    named = next((base.repo_id for base in facts.bases if base.repo_id), facts.converted_from)
    extended = add_front_matter(text, LIBRARY, [LIBRARY], named)
    if not _sound(text, extended):
        extended = text
    whole = add_section(extended, _section(facts), alone=before is None)
    if remove_marks(whole) != before:
        whole = add_section(text, _section(facts), alone=before is None)
    return whole.encode("utf-8", "surrogateescape")


def restore_card(card: bytes) -> str | None:
    """The card without ours; None if all of it was."""
    return remove_marks(card.decode("utf-8", "surrogateescape"))


def _sound(before: str, after: str) -> bool:
    """Whether the YAML still reads, and says what it said."""
    old, new = _data(before), _data(after)
    if old is None or new is None:
        return False
    tags = new.get("tags")
    kept = all(new.get(key) == value for key, value in old.items() if key not in ("library_name", "tags"))
    before_tags = old.get("tags") or []
    wanted = before_tags if isinstance(before_tags, list) else [before_tags]
    return (
        kept
        and isinstance(tags, list)
        and LIBRARY in tags
        and [tag for tag in wanted if tag not in tags] == []
        and new.get("library_name") == LIBRARY
    )


def _data(text: str) -> dict[str, object] | None:
    import yaml  # type: ignore[import-untyped,unused-ignore] # huggingface_hub brings it, its hints are apart

    lines = text.splitlines(keepends=True)
    if not lines or lines[0].strip() != "---":
        return {}
    end = next((i for i, line in enumerate(lines) if i and line.strip() == "---"), None)
    if end is None:
        return {}
    try:
        found = yaml.safe_load("".join(lines[1:end]))
    except (yaml.YAMLError, RecursionError):
        return None
    if found is None:
        return {}
    return found if isinstance(found, dict) else None


def _section(facts: Facts) -> str:
    name = facts.repo_id.rpartition("/")[2]
    lines = [
        "## Compressed weights",
        "",
        f"The weights are stored without loss in the [slimtensors]({REPOSITORY}) format; other files are as they were.",
        *(["It was made from " + _link(facts.converted_from) + "."] if facts.converted_from else []),
        "",
        "| file | plain | here | |",
        "|---|---:|---:|---:|",
        *(_row(f"`{each.path}`", each.before, each.after) for each in facts.weights),
    ]
    if len(facts.weights) > 1:
        before, after = sum(each.before for each in facts.weights), sum(each.after for each in facts.weights)
        lines.append(_row("all", before, after))
    lines += [
        "",
        "```bash",
        "pip install slimtensors",
        f"slimtensors pull {facts.repo_id} --decompress -o {name}  # plain .safetensors, SHA-256 checked, for any tool",
        "```",
        "",
        "```python",
        f"from slimtensors_hub import {'hub_base, ' if facts.bases else ''}pull",
        "from slimtensors.torch import stream_tensors",
        "",
        f'for name, tensor in stream_tensors(pull("{facts.repo_id}"){", base=hub_base()" if facts.bases else ""}):',
        "    ...",
        "```",
        "",
        _readers(facts),
    ]
    return "\n".join(lines)


def _readers(facts: Facts) -> str:
    who = "**Who can read it**: whoever has slimtensors; every other tool after `--decompress`."
    for base in facts.bases:
        if not base.repo_id:
            who += " Weights are stored as differences from a model that is on no hub; give it with `--base`."
            continue
        who += (
            f" Weights are stored as differences from {_link(base.repo_id)} at commit `{base.commit}`, which is "
            "fetched when it is needed."
        )
        if base.access:
            who += f" It is {base.access}: who may not read it cannot read this."
    return who


def _link(repo_id: str | None) -> str:
    from huggingface_hub import constants

    return f"[{repo_id}]({shown(constants.ENDPOINT)}/{repo_id})"


def _row(name: str, before: int, after: int) -> str:
    share = f"{100 * after / before:.1f} %" if before else "-"
    return f"| {name} | {_size(before)} | {_size(after)} | {share} |"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
