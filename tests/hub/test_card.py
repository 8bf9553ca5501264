"""Our lines in README.md and .gitattributes come out again, byte for byte, and leave the YAML's meaning alone."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slimtensors_hub.card import Facts, Needed, Weights, extend_card, restore_card
from slimtensors_hub.marks import add_attributes, remove_attributes

FACTS = Facts(
    "alice/tiny",
    [Weights("a.slimtensors", 3000, 2000), Weights("b.slimtensors", 3000, 2000)],
    [Needed("org/base", "c" * 40)],
)

CARDS = [
    "",
    "# Only text",
    "no line end",
    "---\n---\n",
    "---\nlicense: mit\n---\n",
    "---\nlicense: mit\n---",
    "---\r\nlicense: mit\r\ntags:\r\n- a\r\n---\r\n# Windows\r\n",
    "---\nlibrary_name: transformers # why\ntags: [a, 'b c']\n---\n",
    "---\nlibrary_name: slimtensors\ntags: []\n---\n",
    "---\ntags: [\n  a,\n  b\n]\n---\n",
    "---\ntags:\n    - a\n    - b\nbase_model:\n- x/y\n---\n# Deep\n",
    "---\ntags: single\nmodel-index:\n- name: x\n  results:\n  - task: {type: a}\n---\n",
    "---\ntags:\nlicense: mit\n---\n",
    "---\ndescription: |\n  library_name: no\n  tags: no\n---\n",
    "---\nbroken: [\n---\n# YAML that nobody can read\n",
    "---\n- a list\n---\n",
    "---\nnever ends\n",
    "text\n---\nlicense: mit\n---\n",
    "\ufeff---\nlicense: mit\n---\n",
    "---\nlicense: mit\n---\n# x\n<!-- slimtensors:begin\nsomebody else's -->\n",
]


def data(card: str) -> object:
    parts = card.split("---", 2)
    try:
        return yaml.safe_load(parts[1]) if card.startswith("---") and len(parts) == 3 else None
    except yaml.YAMLError:
        return None


@pytest.mark.parametrize("card", CARDS)
def test_cards_there_and_back(card: str) -> None:
    extended = extend_card(card.encode(), FACTS)
    assert restore_card(extended) == card
    assert b"| all | 6.0 kB | 4.0 kB | 66.7 % |" in extended
    # Once more, with other facts: the old section goes.
    again = extend_card(extended, FACTS._replace(repo_id="bob/other"))
    assert b"alice/tiny" not in again
    assert restore_card(again) == card


@pytest.mark.parametrize("card", [card for card in CARDS if isinstance(data(card), dict)])
def test_yaml_says_what_it_said_and_more(card: str) -> None:
    before, after = data(card), data(extend_card(card.encode(), FACTS).decode())
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert after["library_name"] == "slimtensors"
    tags = before.get("tags") or []
    assert after["tags"] == ["slimtensors", *(tags if isinstance(tags, list) else [tags])]
    rest = {"base_model": "org/base", **before}
    assert {**after, "library_name": 0, "tags": 0} == {**rest, "library_name": 0, "tags": 0}


def test_no_card_and_an_empty_one_are_told_apart() -> None:
    assert restore_card(extend_card(None, FACTS)) is None
    assert restore_card(extend_card(b"", FACTS)) == ""
    made = extend_card(None, FACTS).decode()
    assert restore_card(made.replace("tags:", "license: mit\ntags:").encode()) == "---\nlicense: mit\n---\n"


@given(st.text(st.sampled_from("-# \n\r:[],atgslibrary_nme|'\"\ufeff"), max_size=80), st.booleans())
def test_any_text_comes_back(text: str, front: bool) -> None:
    card = f"---\n{text}\n---\n" if front else text
    assert restore_card(extend_card(card.encode(), FACTS)) == card


def test_bytes_that_are_no_text_come_back() -> None:
    card = b"---\nlicense: mit\n---\n\xff\xfe\x00"
    assert restore_card(extend_card(card, FACTS)).encode("utf-8", "surrogateescape") == card  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "rules", ["", "*.bin filter=lfs\n", "*.bin filter=lfs", "*.slimtensors -text\n", "\n\n", "a\r\n"]
)
def test_attributes_there_and_back(rules: str) -> None:
    extended = add_attributes(rules)
    assert "*.slimtensors" in extended
    assert add_attributes(extended) == extended
    assert remove_attributes(extended) == rules


def test_no_password_gets_into_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://user:secret@hub.example")
    card = extend_card(None, FACTS)
    assert b"(https://hub.example/org/base)" in card
    assert b"secret" not in card
