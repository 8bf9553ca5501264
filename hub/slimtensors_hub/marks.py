"""Our lines in README.md and .gitattributes, put in so that they can be taken out again, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["add_attributes", "add_front_matter", "add_section", "remove_attributes", "remove_marks"]

ADDED = "  # added by slimtensors"  # at a line's end: the line is ours
KEPT = "# kept by slimtensors: "  # before what was the line; the next one took its place
MADE = "# front matter added by slimtensors"
BEGIN, END = "<!-- slimtensors:begin", "<!-- slimtensors:end -->"
ALONE = ", the whole card -->"  # after BEGIN: there was no card
FENCE = "---"

ATTRIBUTES = "*.slimtensors filter=lfs diff=lfs merge=lfs -text"
RULE = "# added by slimtensors"
RULE_AFTER_TEXT = "# added by slimtensors, after a line without an end"


def add_front_matter(text: str, library: str, tags: Sequence[str], base_model: str | None) -> str:
    """The text with `library_name`, tags and `base_model` in its YAML. A base model that it names already stays."""
    lines = text.splitlines(keepends=True)
    end = _fence(lines)
    if end is None:
        made = ["library_name: " + library, "tags:", *(f"- {tag}" for tag in tags)]
        made += [] if base_model is None else [f"base_model: {base_model}"]
        return "".join([f"{FENCE}\n{MADE}\n", *(f"{line}{ADDED}\n" for line in made), f"{FENCE}\n"]) + text
    newline = "\r\n" if lines[0].endswith("\r\n") else "\n"
    front, missing = lines[1:end], []
    place = _key(front, "library_name")
    if place is None:
        missing.append(f"library_name: {library}")
    elif _value(front[place]) != library:
        front[place : place + 1] = _instead(front[place], f"library_name: {library}", newline)
    place = _key(front, "tags")
    if place is None:
        missing += ["tags:", *(f"- {tag}" for tag in tags)]
    else:
        _add_tags(front, place, tags, newline)
    if base_model is not None and _key(front, "base_model") is None:
        missing.append(f"base_model: {base_model}")
    front += [f"{line}{ADDED}{newline}" for line in missing]
    return "".join([lines[0], *front, *lines[end:]])


def _fence(lines: Sequence[str]) -> int | None:
    """The line that ends the front matter; None if there is none."""
    if not lines or lines[0].strip() != FENCE:
        return None
    return next((i for i, line in enumerate(lines) if i and line.strip() == FENCE), None)


def _key(front: Sequence[str], key: str) -> int | None:
    return next((i for i, line in enumerate(front) if re.match(rf"{key}\s*:", line)), None)


def _value(line: str) -> str:
    return line.partition(":")[2].split(" #")[0].strip().strip("\"'")


def _instead(line: str, new: str, newline: str) -> list[str]:
    return [KEPT + line, new + ADDED + newline]


def _add_tags(front: list[str], place: int, tags: Sequence[str], newline: str) -> None:
    """Into a list in either of YAML's styles, or beside a single tag."""
    value = front[place].partition(":")[2].split(" #")[0].strip()
    if not value:
        following = front[place + 1] if place + 1 < len(front) else ""
        item = re.match(r"(\s*)-\s+", following)
        front[place + 1 : place + 1] = [f"{item[1] if item else ''}- {tag}{ADDED}{newline}" for tag in tags]
        return
    inner = value[1:] if value.startswith("[") else value + "]"
    comma = "" if inner.strip() == "]" else ", "
    front[place : place + 1] = _instead(front[place], f"tags: [{', '.join(tags)}{comma}{inner}", newline)


def add_section(text: str, section: str, *, alone: bool = False) -> str:
    """The text with a section of ours at its end. alone: there was no text."""
    return f"{text}\n{BEGIN}{ALONE if alone else ' -->'}\n{section.strip()}\n{END}\n"


def remove_marks(text: str) -> str | None:
    """What the text was before `add_front_matter` and `add_section`, and what others changed; None if nothing."""
    found = text.rfind(f"\n{BEGIN}")
    alone = False
    if found >= 0:
        inner, end, rest = text[found:].partition(END)
        if end:
            alone = inner.startswith(f"\n{BEGIN}{ALONE}")
            text = text[:found] + rest.removeprefix("\r").removeprefix("\n")
    text = _without_front_matter(text)
    return None if alone and not text else text


def _without_front_matter(text: str) -> str:
    lines = text.splitlines(keepends=True)
    end_of_front = _fence(lines)
    if end_of_front is None:
        return text
    front = [line.removeprefix(KEPT) for line in lines[1:end_of_front] if not line.rstrip("\r\n").endswith(ADDED)]
    if [line.strip() for line in front] == [MADE]:
        return "".join(lines[end_of_front + 1 :])
    front = [line for line in front if line.strip() != MADE]
    return "".join([lines[0], *front, *lines[end_of_front:]])


def add_attributes(text: str) -> str:
    """The text with the rule that keeps *.slimtensors in LFS."""
    if any(line.split()[:1] == ["*.slimtensors"] for line in text.splitlines()):
        return text
    if text and not text.endswith("\n"):
        return f"{text}\n{RULE_AFTER_TEXT}\n{ATTRIBUTES}\n"
    return f"{text}{RULE}\n{ATTRIBUTES}\n"


def remove_attributes(text: str) -> str:
    """What the text was before `add_attributes`."""
    return text.replace(f"\n{RULE_AFTER_TEXT}\n{ATTRIBUTES}\n", "").replace(f"{RULE}\n{ATTRIBUTES}\n", "")
