"""`save_pretrained` with compressed weights, for whatever has a `save_pretrained` of its own."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from slimtensors.errors import UsageError
from slimtensors.files.folders import COMPRESS, carry_out, check_base_stays, plan_folder, walk_folder
from slimtensors_hub.both_kinds import family_of, kind_of

__all__ = ["check_arguments", "earlier_weights", "put_in_place", "save_pretrained"]

# What stands for model.safetensors in folders of an earlier day.
_PICKLE = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin(\.index\.json)?")


def save_pretrained(
    model: Any,
    save_directory: Any,
    *,
    preset: str = "balanced",
    base: Any = None,
    threads: int | None = None,
    self_check: bool = True,
    **kwargs: Any,
) -> None:
    """`model.save_pretrained(save_directory, **kwargs)`, its .safetensors files compressed.

    model: of transformers, diffusers, PEFT or sentence-transformers, or a pipeline of them. What its own method writes
    goes into a folder beside `save_directory` first, which takes that much of the disk for a while; `slimtensors
    decompress` gives these files back byte for byte. The new files take their places when all of them are complete and
    checked; shards of an earlier save are removed. base: a repository, or as for `slimtensors.compress`; preset,
    threads, self_check: as there.

    Raises UsageError if `save_directory` holds plain weights of the same name, which would then be out of date, or what
    would be the base of the new files.
    """
    from slimtensors.files.converting import compress
    from slimtensors_hub.bases import named_base
    from slimtensors_hub.fetching import Place
    from slimtensors_hub.progress import bar

    check_arguments(model, preset, kwargs)
    found, _ = named_base(base, Place())
    target = Path(save_directory)
    target.parent.mkdir(parents=True, exist_ok=True)

    def convert(source: Path, to: Path) -> None:
        # Each file is encoded, then decoded to check it.
        with bar(source.stat().st_size, f"Compressing {source.name}", passes=1 + self_check) as advance:
            compress(source, to, preset=preset, base=found, threads=threads, self_check=self_check, progress=advance)

    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as made:
        plain = Path(made, "plain")
        model.save_pretrained(plain, **kwargs)
        plan = plan_folder(plain, COMPRESS)
        earlier = earlier_weights([to for _, to in plan.weights] + [to for _, to, _ in plan.indexes], target)
        check_base_stays(found, [*earlier, *(target / to for _, to in plan.weights)])
        carry_out(plan, target, convert, force=True)
        for path in earlier:
            path.unlink(missing_ok=True)


def check_arguments(model: Any, preset: str, kwargs: dict[str, Any]) -> None:
    """Raises UsageError before anything is written."""
    from slimtensors.planning.planner import check_preset

    if not hasattr(model, "save_pretrained"):
        raise UsageError(
            f"a {type(model).__name__} has no save_pretrained of its own, whose files would be compressed: save a "
            "module with slimtensors.torch.save_model, or derive its class from slimtensors_hub.ModelHubMixin"
        )
    check_preset(preset)
    if kwargs.get("safe_serialization") is False:
        raise UsageError("safe_serialization=False writes pickles, which are not compressed; leave it out")
    if kwargs.get("push_to_hub"):
        raise UsageError("push_to_hub=True would upload the plain files; save, and then push the folder")


def put_in_place(made: Path, target: Path, *, plain: bool = False) -> None:
    """Move the files of one folder into another on the same disk; shards of an earlier save there are removed.

    plain: so are weights of the other kind, and pickles as transformers names them, which would be out of date.
    Raises UsageError for weights of the other kind if not.
    """
    names = list(walk_folder(made))
    earlier = earlier_weights(names, target, plain)
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).replace(target / name)
    for path in earlier:
        path.unlink(missing_ok=True)


def earlier_weights(names: Iterable[str], target: Path, plain: bool = False) -> list[Path]:
    """Weights of an earlier save to this folder that the new ones do not replace.

    Raises UsageError for those of the other kind, unless `plain` asks for them.
    """
    new = {Path(name): family_of(name) for name in names}
    kinds = {(path.parent, family): kind_of(path.name) for path, family in new.items() if family is not None}
    found = []
    for (folder, family), kind in kinds.items():
        there = target / folder
        for path in sorted(there.iterdir()) if there.is_dir() else []:
            if plain and family == "model" and _PICKLE.fullmatch(path.name):
                found.append(path)
            if family_of(path.name) != family or folder / path.name in new:
                continue
            if kind_of(path.name) != kind and not plain:
                raise UsageError(
                    f"{path} holds weights of the same name, which would be out of date; remove it, or save elsewhere"
                )
            found.append(path)
    return found
