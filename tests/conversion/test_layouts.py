"""Import and export of every published layout, at tiny sizes, through the command line."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from livetalk_jax.checkpoint import load_network, read, read_manifest, save, tensors
from livetalk_jax.conversion import engine, forms, sources, transfer
from livetalk_jax.conversion.__main__ import main
from livetalk_jax.conversion.__main__ import run as run_arguments
from livetalk_jax.conversion.sizes import NETWORKS
from livetalk_jax.conversion.writers import FileWriter
from livetalk_jax.models.keys import Keys

from . import published
from .memory import measure, write_hollow
from .published import BF16, TINY, Tensors, assert_same, read_torch

CLIP_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


@pytest.fixture(scope="module")
def soulx(tmp_path_factory):
    """A SoulX folder, a wav2vec2 folder, their tensors, and the checkpoint imported from them."""
    folder = tmp_path_factory.mktemp("soulx")
    files = published.write_soulx(folder / "soulx")
    audio = published.write_wav2vec2(folder / "wav2vec2")
    assert run("import", "--from", folder / "soulx", "--from", folder / "wav2vec2", "--to", folder / "ours") == 0
    return folder, files, audio


def run(*arguments) -> int:
    return run_arguments([str(argument) for argument in arguments])


def read_shards(folder: Path, stem: str = "diffusion_pytorch_model") -> Tensors:
    """All shards, which must be those of the index."""
    files = sorted(folder.glob(f"{stem}*.safetensors"))
    index = folder / f"{stem}.safetensors.index.json"
    merged = {}
    for file in files:
        merged |= load_file(file)
    if len(files) > 1:
        weight_map = json.loads(index.read_text())["weight_map"]
        assert set(weight_map) == set(merged) and set(weight_map.values()) <= {file.name for file in files}
    return merged


def abstract(name: str, dtype=jnp.bfloat16) -> nnx.Module:
    return nnx.eval_shape(lambda: NETWORKS[name].make(getattr(TINY, name), rngs=Keys(jax.random.key(0)), dtype=dtype))


def copy(source: Path, to: Path) -> Path:
    return shutil.copytree(source, to)


def test_soulx_there_and_back_is_bit_exact(soulx, tmp_path, capsys):
    folder, files, audio = soulx
    manifest = read_manifest(folder / "ours")
    assert set(manifest.configurations) == {"dit", "vae", "text", "clip", "audio"}
    assert Path(manifest.tokenizer, "spiece.model").is_file()
    assert {str(array.dtype) for _, array in read(folder / "ours", "dit")} == {"bfloat16", "float32"}
    assert tensors(folder / "ours", "clip.unused")["log_scale"].shape == ()

    assert run("export", "--from", folder / "ours", "--to", tmp_path / "back") == 0
    assert_same(read_shards(tmp_path / "back"), files["dit"])
    assert_same(read_torch(tmp_path / "back/chinese-wav2vec2-base/pytorch_model.bin"), audio)
    for name in set(files) - {"dit"}:
        assert_same(read_torch(tmp_path / "back" / name), files[name])
    originals = [file.relative_to(folder / "soulx") for file in (folder / "soulx").rglob("*") if file.suffix != ".safetensors"]
    kept = [name for name in originals if (folder / "soulx" / name).is_file() and not name.name.endswith("index.json")]
    assert kept and all((tmp_path / "back" / name).is_file() for name in kept)

    # What was written is one folder that is read again as it is.
    capsys.readouterr()
    assert run("import", "--from", tmp_path / "back", "--to", tmp_path / "again") == 0
    assert "not in it" not in capsys.readouterr().err
    assert read_manifest(tmp_path / "again").configurations == manifest.configurations


def test_the_network_computes_with_the_published_numbers(soulx):
    folder, files, _ = soulx
    network = abstract("dit", jnp.float32)
    nnx.update(network, load_network(folder / "ours", "dit", nnx.state(network, nnx.Param), config=TINY.dit))
    published_names = engine.unload(network, forms.form("dit", "soulx").table(TINY.dit))
    assert_same(published_names, {name: array.astype(np.float32) for name, array in files["dit"].items()})


@pytest.mark.parametrize("which", ["single", "multi"])
def test_wan_with_infinitetalk_merged_over_it(tmp_path, which):
    dit = published.network_tensors("dit", "wan")
    audio = {name: array for name, array in dit.items() if forms.AUDIO_MODULES.fullmatch(name)}
    rest = {name: array for name, array in dit.items() if name not in audio}
    published.write_common(tmp_path / "wan")
    published.write_shards(tmp_path / "wan", "diffusion_pytorch_model", rest, 7)
    (tmp_path / f"InfiniteTalk/{which}").mkdir(parents=True)
    save_file(audio, tmp_path / f"InfiniteTalk/{which}/infinitetalk.safetensors")
    published.write_wav2vec2(tmp_path / "wav2vec2")
    sources = [value for name in ("wan", "InfiniteTalk", "wav2vec2") for value in ("--from", tmp_path / name)]
    assert run("import", *sources, "--to", tmp_path / "ours") == 0
    assert run("export", "--from", tmp_path / "ours", "--to", tmp_path / "back") == 0
    assert_same(read_shards(tmp_path / "back"), rest)
    assert len(list((tmp_path / "back").glob("diffusion_pytorch_model-*-of-00007.safetensors"))) == 7
    assert_same(load_file(tmp_path / f"back/{which}/infinitetalk.safetensors"), audio)
    assert run("export", "--from", tmp_path / "ours", "--to", tmp_path / "soulx", "--layout", "soulx") == 0
    assert_same(read_shards(tmp_path / "soulx"), dit)


def test_plain_wan_says_which_file_is_missing(tmp_path, capsys):
    dit = published.network_tensors("dit", "wan")
    rest = {name: array for name, array in dit.items() if not forms.AUDIO_MODULES.fullmatch(name)}
    published.write_shards(tmp_path / "wan", "diffusion_pytorch_model", rest, 2)
    (tmp_path / "wan/config.json").write_text(json.dumps(published.WAN_JSON))
    assert run("import", "--from", tmp_path / "wan", "--to", tmp_path / "ours") == 2
    error = capsys.readouterr().err
    assert "1 problem, nothing written" in error and "single/infinitetalk.safetensors" in error and "missing tensor" not in error
    assert not (tmp_path / "ours").exists()
    save_file({"audio_proj.proj1.bias": dit["audio_proj.proj1.bias"]}, tmp_path / "audio.safetensors")
    assert run("import", "--from", tmp_path / "audio.safetensors", "--to", tmp_path / "ours") == 2
    assert "missing network: what InfiniteTalk's audio weights belong to: dit" in capsys.readouterr().err


def test_one_network_in_two_places_is_an_error(soulx, tmp_path, capsys):
    folder, files, _ = soulx
    audio = {name: array for name, array in files["dit"].items() if forms.AUDIO_MODULES.fullmatch(name)}
    for which in ("single", "multi"):
        (tmp_path / which).mkdir()
        save_file(audio, tmp_path / which / "infinitetalk.safetensors")
    shutil.copy(folder / "soulx/Wan2.1_VAE.pth", tmp_path / "vae.pth")
    sources = ["--from", folder / "soulx", "--from", tmp_path]
    assert run("import", *sources, "--to", tmp_path / "ours") == 2
    report = capsys.readouterr().err
    assert "2 problems, nothing written" in report
    assert (
        f"two sources for the network: vae ({folder / 'soulx/Wan2.1_VAE.pth'} and {tmp_path / 'vae.pth'}; give one of them)"
        in report
    )
    assert f"{tmp_path / 'single/infinitetalk.safetensors'} and {tmp_path / 'multi/infinitetalk.safetensors'}" in report


def test_later_audio_weights_win_and_it_is_said(soulx, tmp_path, capsys):
    folder, files, _ = soulx
    audio = {name: array + 1 for name, array in files["dit"].items() if forms.AUDIO_MODULES.fullmatch(name)}
    save_file(audio, tmp_path / "infinitetalk.safetensors")
    sources = ["--from", folder / "soulx", "--from", tmp_path / "infinitetalk.safetensors", "--from", folder / "wav2vec2"]
    assert run("import", *sources, "--to", tmp_path / "ours") == 0
    assert f"{len(audio)} audio tensors of {tmp_path / 'infinitetalk.safetensors'} replace" in capsys.readouterr().err
    assert run("export", "--from", tmp_path / "ours", "--to", tmp_path / "back") == 0
    assert_same(read_shards(tmp_path / "back"), files["dit"] | audio)
    # Any other name in two files is an error.
    save_file(audio | {"head.head.bias": files["dit"]["head.head.bias"]}, tmp_path / "infinitetalk.safetensors")
    assert run("import", *sources, "--to", tmp_path / "no") == 2
    assert "duplicate tensor: head.head.bias" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["pretraining_parametrized", "encoder", "encoder_parametrized"])
def test_other_names_of_wav2vec2(tmp_path, form):
    tensors = published.write_wav2vec2(tmp_path / "wav2vec2", form)
    save_file(tensors, tmp_path / "wav2vec2/model.safetensors")  # taken instead of the .bin beside it
    (tmp_path / "wav2vec2/pytorch_model.bin").write_text("not read")
    assert run("import", "--from", tmp_path / "wav2vec2", "--to", tmp_path / "ours") == 0
    assert run("export", "--from", tmp_path / "ours", "--to", tmp_path / "back") == 0
    assert_same(read_torch(tmp_path / "back/chinese-wav2vec2-base/pytorch_model.bin"), tensors)


def test_everything_wrong_is_one_report_and_nothing_is_written(soulx, tmp_path, capsys):
    folder, files, _ = soulx
    copy(folder / "soulx", tmp_path / "soulx")
    shards = sorted((tmp_path / "soulx").glob("*.safetensors"))
    first, second = load_file(shards[0]), load_file(shards[1])
    moved = next(iter(second))
    first |= {moved: second[moved], "blocks.0.new.weight": np.ones(3, np.float32)}
    lost, bent = list(second)[3], list(second)[4]
    del second[lost]
    second[bent] = np.ones((7, 7), BF16)
    save_file(first, shards[0])
    save_file(second, shards[1])
    vae = files["Wan2.1_VAE.pth"]
    published.write_torch(tmp_path / "soulx/Wan2.1_VAE.pth", {n: a for n, a in vae.items() if n != "conv2.bias"})
    assert run("import", "--from", tmp_path / "soulx", "--to", tmp_path / "ours") == 2
    report = capsys.readouterr().err
    assert "5 problems, nothing written" in report
    assert f"duplicate tensor: {moved} (in {shards[0]} and {shards[1]})" in report
    assert "unknown tensor: blocks.0.new.weight" in report
    assert f"missing tensor: {lost}" in report
    assert f"wrong shape: {bent} ([7, 7], must be {list(files['dit'][bent].shape)})" in report
    assert "missing tensor: conv2.bias" in report
    assert [path.name for path in tmp_path.iterdir()] == ["soulx"]

    shards[2].unlink()
    assert run("import", "--from", tmp_path / "soulx", "--to", tmp_path / "ours") == 2
    assert f"missing file: {shards[2]} (listed in" in capsys.readouterr().err
    next((tmp_path / "soulx").glob("*.index.json")).unlink()
    assert run("import", "--from", tmp_path / "soulx", "--to", tmp_path / "ours") == 2
    assert f"missing file: {shards[2]} (one of 3 shards)" in capsys.readouterr().err


def test_files_that_cannot_be_read_are_one_line(soulx, tmp_path, capsys):
    folder, _, _ = soulx
    copy(folder / "soulx", tmp_path / "soulx")
    shard = min((tmp_path / "soulx").glob("*.safetensors"))
    whole = shard.read_bytes()
    for damaged, words in ((whole[:-100], "cut short"), (b"PK" * 50, "not a safetensors file"), (b"", "not a safetensors file")):
        shard.write_bytes(damaged)
        assert run("import", "--from", tmp_path / "soulx", "--to", tmp_path / "ours") == 2
        error = capsys.readouterr().err
        assert words in error and str(shard) in error and error.count("\n") == 1
    shard.write_bytes(whole)
    for damaged in (b"", b"nothing", (tmp_path / "soulx" / CLIP_FILE).read_bytes()[:5000]):
        (tmp_path / "soulx" / CLIP_FILE).write_bytes(damaged)
        assert run("import", "--from", tmp_path / "soulx", "--to", tmp_path / "ours") == 2
        error = capsys.readouterr().err
        assert f"{CLIP_FILE} is not a PyTorch file of tensors" in error and error.count("\n") == 1
    assert run("import", "--from", tmp_path / "none", "--to", tmp_path / "ours") == 2
    assert "there is no file or folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run("import", "--from", tmp_path / "empty", "--to", tmp_path / "ours") == 2
    assert "no weights of a known layout" in capsys.readouterr().err
    save_file({"strange": np.ones(3, np.float32)}, tmp_path / "empty/strange.safetensors")
    assert run("import", "--from", tmp_path / "empty", "--to", tmp_path / "ours") == 2
    assert "no known network in the file" in capsys.readouterr().err
    assert run("export", "--from", tmp_path / "soulx", "--to", tmp_path / "back") == 2
    assert "is not a checkpoint of this program" in capsys.readouterr().err
    assert run("import", "--from", folder / "wav2vec2", "--to", tmp_path / "empty") == 2
    assert "exists already" in capsys.readouterr().err
    assert run("import", "--from", folder / "soulx", "--to", tmp_path / "ours", "--config", "none") == 2
    assert "there is no configuration 'none'" in capsys.readouterr().err
    assert run("import", "--from", folder / "soulx", "--to", tmp_path / "ours", "--config", "soulx_14b") == 2
    assert "another configuration: dit.num_heads (6 in config.json, 40 in --config)" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists() and not (tmp_path / "back").exists()


def test_an_interrupted_import_or_export_leaves_nothing(soulx, tmp_path, monkeypatch, capsys):
    folder, _, _ = soulx

    def interrupt(*_):
        raise KeyboardInterrupt

    def fill_the_disk(*_):
        raise OSError(28, "No space left on device")

    for stop, code, words in ((interrupt, 130, "interrupted; nothing was written"), (fill_the_disk, 2, "No space left on device")):
        monkeypatch.setattr(sources.TorchFile, "read", stop)
        assert run("import", "--from", folder / "soulx", "--to", tmp_path / "ours") == code
        assert words in capsys.readouterr().err
        monkeypatch.setattr(FileWriter, "write", stop)
        assert run("export", "--from", folder / "ours", "--to", tmp_path / "back") == code
        assert words in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []


def test_safetensors_are_read_or_mapped(tmp_path, monkeypatch):
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(5).astype(BF16),
        "c": np.array(7),
        "d": np.ones((0, 3)),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    source = sources.open_file(tmp_path / "x.safetensors")
    assert_same({name: source.read(name) for name in tensors}, tensors)
    monkeypatch.setattr(sources, "MAP_BYTES", 1)
    assert isinstance(source.read("a"), np.memmap)
    assert_same({name: source.read(name) for name in tensors}, tensors)


def test_torch_files_nested_and_old(tmp_path, monkeypatch):
    import torch

    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4).astype(BF16), "c": np.array(7)}
    for nested in (None, "state_dict", "model"):
        published.write_torch(tmp_path / "x.pth", tensors, nested)
        source = sources.open_file(tmp_path / "x.pth")
        monkeypatch.setattr(sources, "REMAP_BYTES", 8)  # so that the mapping is renewed on the way
        assert_same({name: source.read(name) for name in tensors}, tensors)
        assert {name: (t.shape, t.dtype) for name, t in source.tensors.items()} == {
            n: (a.shape, a.dtype) for n, a in tensors.items()
        }
    torch.save({"t": torch.arange(6.0).reshape(2, 3).t()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(sources.open_file(tmp_path / "old.pth").read("t"), np.arange(6.0).reshape(2, 3).T)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(OSError, match="must map names to tensors"):
        sources.open_file(tmp_path / "list.pth")


def test_diffusers_layout(tmp_path):
    """Written by diffusers and transformers themselves."""
    import diffusers
    import safetensors.torch
    import torch
    import transformers

    torch.manual_seed(0)
    dit, vae, text, clip = TINY.dit, TINY.vae, TINY.text, TINY.clip
    folder = tmp_path / "wan"
    diffusers.WanTransformer3DModel(
        num_attention_heads=dit.num_heads, attention_head_dim=dit.head_dim, in_channels=36, out_channels=16, text_dim=dit.text_dim,
        freq_dim=dit.freq_dim, ffn_dim=dit.ffn_dim, num_layers=dit.num_layers, image_dim=dit.clip_dim, added_kv_proj_dim=dit.dim,
    ).to(torch.bfloat16).save_pretrained(folder / "transformer", max_shard_size="2MB")  # fmt: skip
    diffusers.AutoencoderKLWan(
        base_dim=vae.dim, z_dim=16, dim_mult=list(vae.dim_mult), num_res_blocks=vae.num_res_blocks
    ).save_pretrained(folder / "vae")  # fmt: skip
    transformers.UMT5EncoderModel(
        transformers.UMT5Config(
            vocab_size=text.vocab_size, d_model=text.dim, d_kv=text.dim_attn // text.num_heads, d_ff=text.dim_ffn,
            num_layers=text.num_layers, num_heads=text.num_heads, relative_attention_num_buckets=text.num_buckets,
        )
    ).save_pretrained(folder / "text_encoder")  # fmt: skip
    transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=clip.dim, intermediate_size=4 * clip.dim, num_hidden_layers=clip.num_layers,
            num_attention_heads=clip.num_heads, image_size=clip.image_size, patch_size=clip.patch_size,
        )
    ).save_pretrained(folder / "image_encoder")  # fmt: skip
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    (folder / "model_index.json").write_text("{}")
    audio = {name: a for name, a in published.network_tensors("dit", "wan").items() if forms.AUDIO_MODULES.fullmatch(name)}
    save_file(audio, tmp_path / "infinitetalk.safetensors")
    published.write_wav2vec2(tmp_path / "wav2vec2")
    sources = ["--from", folder, "--from", tmp_path / "infinitetalk.safetensors", "--from", tmp_path / "wav2vec2"]
    # config.json says nothing of the text's length, so that of the published code would be taken
    assert run("import", *sources, "--to", tmp_path / "ours", "--config", "tiny") == 0
    assert read_manifest(tmp_path / "ours").tokenizer == str(tmp_path / "ours/files/tokenizer")
    assert run("export", "--from", tmp_path / "ours", "--to", tmp_path / "back") == 0
    for name in ("transformer", "vae", "text_encoder", "image_encoder"):
        stem = "model" if "encoder" in name else "diffusion_pytorch_model"
        assert_same(read_shards(tmp_path / "back" / name, stem), read_shards(folder / name, stem))
        assert (tmp_path / "back" / name / "config.json").read_bytes() == (folder / name / "config.json").read_bytes()
    assert_same(load_file(tmp_path / "back/single/infinitetalk.safetensors"), audio)
    assert run("export", "--from", tmp_path / "ours", "--to", tmp_path / "no", "--layout", "soulx") == 2
    again = diffusers.WanTransformer3DModel.from_config(json.loads((tmp_path / "back/transformer/config.json").read_text()))
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "back/transformer/diffusion_pytorch_model.safetensors"))


def test_what_was_trained_here_is_exported_with_its_sizes(tmp_path, capsys):
    networks = {name: abstract(name) for name in ("dit", "vae", "audio")}
    for name, network in networks.items():
        entry = forms.form(name, transfer.DEFAULT_FORMS[name])
        engine.load(network, published.network_tensors(name, entry.name), entry.table(getattr(TINY, name)))
    save(tmp_path / "ours", networks, {name: getattr(TINY, name) for name in networks}, origin="a test")
    assert run("export", "--from", tmp_path / "ours", "--to", tmp_path / "back") == 0
    capsys.readouterr()
    assert run("inspect", tmp_path / "back") == 0
    described = capsys.readouterr().out
    assert described.count("fits tiny") == 3 and "an import would fail" not in described
    assert run("import", "--from", tmp_path / "back", "--to", tmp_path / "again") == 0
    for name in networks:
        assert_same(dict(read(tmp_path / "ours", name)), dict(read(tmp_path / "again", name)))
    import transformers

    transformers.Wav2Vec2Model.from_pretrained(tmp_path / "back/chinese-wav2vec2-base")


def test_exit_codes_of_the_command_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["livetalk convert", "inspect", "/nowhere"])
    assert stopped.value.code == 2 and capsys.readouterr().err == "there is no file or folder /nowhere\n"
    with pytest.raises(SystemExit) as stopped:
        main(["livetalk convert", "import", "--from", "x"])
    assert stopped.value.code == 2 and "usage: livetalk convert import" in capsys.readouterr().err


def test_inspect(soulx, tmp_path, capsys):
    folder, _, _ = soulx
    capsys.readouterr()
    assert run("inspect", folder / "soulx") == 0
    text = capsys.readouterr().out
    assert "layout: SoulX-FlashTalk-14B" in text and "272 bfloat16, 1 float32" in text and text.count("fits tiny") == 4
    assert "audio: not here" in text and "diffusion_pytorch_model-00002-of-00003.safetensors" in text
    assert run("inspect", folder / "ours") == 0
    text = capsys.readouterr().out
    assert (
        "a checkpoint of this program" in text
        and text.count("fits tiny") == 5
        and "16 published tensors that it does not use" in text
    )
    shutil.copytree(folder / "soulx", tmp_path / "soulx")
    min((tmp_path / "soulx").glob("*.safetensors")).unlink()
    assert run("inspect", tmp_path / "soulx") == 0
    assert "an import would fail" in capsys.readouterr().out


def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
    """Two files of 0.5 GB each; JAX, Flax and Orbax alone take about 0.4 GiB."""
    total = write_hollow(tmp_path / "published", blocks=8, shards=2, dtype="F32", dim=1024, ffn_dim=3072)
    peak = measure(tmp_path / "published", tmp_path / "ours")
    shutil.rmtree(tmp_path)
    assert total > 1e9
    assert peak < 0.9 * 2**30, f"{peak / 2**30:.2f} GiB"
