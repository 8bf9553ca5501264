"""diffusers, PEFT and sentence-transformers: saved compressed, and loaded, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")  # the environment of these tests has it; transformers alone does not do
transformers = pytest.importorskip("transformers")

from hub.tiny import llama, same  # noqa: E402 # after transformers is known to be there
from slimtensors import BaseError, UsageError  # noqa: E402
from slimtensors_hub import decompressed, save_pretrained  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    # Of the libraries, about themselves.
    "ignore::FutureWarning",
    "ignore::DeprecationWarning",
)


def unet(dtype: Any) -> Any:
    import diffusers

    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).to(dtype)  # fmt: skip


@pytest.mark.parametrize("arguments", [{}, {"max_shard_size": "200KB"}, {"variant": "fp16"}])
def test_models_of_diffusers(arguments: dict[str, Any], tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    model = unet(torch.bfloat16)
    model.save_pretrained(tmp_path / "plain", **arguments)
    save_pretrained(model, tmp_path / "slim", **arguments)
    assert not list((tmp_path / "slim").glob("*.safetensors"))
    named = {key: value for key, value in arguments.items() if key == "variant"}
    for dtype in (None, torch.bfloat16):
        wanted = diffusers.UNet2DModel.from_pretrained(tmp_path / "plain", torch_dtype=dtype, **named)
        with decompressed(tmp_path / "slim") as folder:
            for path in (tmp_path / "plain").iterdir():
                assert (folder / path.name).read_bytes() == path.read_bytes()
            found = diffusers.UNet2DModel.from_pretrained(folder, torch_dtype=dtype, **named)
        assert not folder.exists()
        assert same(found, wanted)


def test_pipelines_of_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    pipeline = diffusers.DDPMPipeline(unet(torch.float32), diffusers.DDPMScheduler(num_train_timesteps=10))
    pipeline.save_pretrained(tmp_path / "plain")
    save_pretrained(pipeline, tmp_path / "slim")
    inner = [path.name for path in (tmp_path / "slim" / "unet").glob("*tensors")]
    assert inner == ["diffusion_pytorch_model.slimtensors"]
    wanted = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "plain")
    with decompressed(tmp_path / "slim") as folder:
        found = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert same(found.unet, pipeline.unet)
    images = [
        each(num_inference_steps=2, output_type="np", generator=torch.Generator().manual_seed(1)).images
        for each in (wanted, found)
    ]
    assert (images[0] == images[1]).all()


def test_adapters_of_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=8, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    torch.manual_seed(1)
    adapted = peft.get_peft_model(llama(), config).eval()
    save_pretrained(adapted, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.slimtensors").is_file()
    with decompressed(tmp_path / "adapter") as folder:
        found = peft.PeftModel.from_pretrained(llama(), folder).eval()
    assert same(found, adapted)
    tokens = torch.arange(9)[None]
    assert torch.equal(found(tokens).logits, adapted(tokens).logits)


SENTENCES = ["A table of numbers.", "Weights are stored small and given back fast.", "", "Ein Satz auf Deutsch."]


def test_sentences_of_the_real_model(minilm: Path, tmp_path: Path) -> None:
    """The same embeddings, bit for bit, in both layouts."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    import slimtensors_hub.transformers as ours

    real = sentence_transformers.SentenceTransformer(str(minilm.parent), device="cpu")
    wanted = real.encode(SENTENCES)
    assert wanted.shape == (4, 384)
    save_pretrained(real, tmp_path / "slim")
    assert (tmp_path / "slim" / "model.slimtensors").stat().st_size < 0.85 * minilm.stat().st_size
    with decompressed(tmp_path / "slim") as folder:
        found = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    assert found.encode(SENTENCES).tobytes() == wanted.tobytes()

    shutil.copytree(tmp_path / "slim", tmp_path / "payloads", ignore=lambda *_: ["model.slimtensors"])
    ours.save_pretrained(real[0].model, tmp_path / "payloads", layout="safetensors")
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "payloads"), device="cpu")
    assert again.encode(SENTENCES).tobytes() == wanted.tobytes()
    assert same(ours.AutoModel.from_pretrained(tmp_path / "slim"), real[0].model)


def test_plain_folders_are_given_as_they_are(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "plain")
    with decompressed(tmp_path / "plain") as folder:
        assert folder == tmp_path / "plain"


def test_checkpoints_within_are_left_out(tmp_path: Path) -> None:
    """As a training script leaves them beside the model; a checkpoint itself is refused."""
    step, name = tmp_path / "slim" / "run" / "step-1", f"rank-00000.{'0' * 32}.slimtensors"
    save_pretrained(llama(), tmp_path / "slim")
    step.mkdir(parents=True)
    shutil.copy(tmp_path / "slim" / "model.slimtensors", step / name)
    with decompressed(tmp_path / "slim") as folder:
        assert (folder / "model.safetensors").is_file()
        assert list((folder / "run" / "step-1").iterdir()) == []
    with pytest.raises(UsageError, match="is of a checkpoint"), decompressed(step):
        pass


def test_what_is_missing_or_wrong_leaves_nothing(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    tuned = llama()
    with torch.no_grad():
        tuned.lm_head.weight += 1e-4 * torch.randn_like(tuned.lm_head.weight)
    save_pretrained(tuned, tmp_path / "tuned", base=tmp_path / "base")
    (tmp_path / "work").mkdir()
    with pytest.raises(BaseError), decompressed(tmp_path / "tuned", tmpdir=tmp_path / "work"):
        pass
    assert list((tmp_path / "work").iterdir()) == []
    with decompressed(tmp_path / "tuned", tmpdir=tmp_path / "work", base=tmp_path / "base") as folder:
        assert same(transformers.AutoModelForCausalLM.from_pretrained(folder), tuned)
    with pytest.raises(UsageError, match="no/such/folder"), decompressed("no/such/folder"):
        pass


def test_a_base_is_not_replaced_by_differences_from_it(tmp_path: Path) -> None:
    model, folder = llama(hidden=256), tmp_path / "model"
    save_pretrained(model, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1.003
    for base in (folder, folder / "model.slimtensors"):
        with pytest.raises(UsageError, match=r"model.slimtensors is of the base, .* write to another folder"):
            save_pretrained(model, folder, base=str(base))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    save_pretrained(model, tmp_path / "other", base=str(folder))
