"""`cleanclip convert`: the whole way round, every format, and mistakes in one line."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.rights import locked
from helpers.small_run import small_config, train
from helpers.torch_files import KINDS, cleanclip_file, random_values, same_tensors, tensors_of
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import cleanclip_jax
from cleanclip_jax import cli
from cleanclip_jax.models.variants import VARIANTS
from cleanclip_jax.start.start import RunStart
from cleanclip_jax.start.torch.checkpoint import open_checkpoint
from cleanclip_jax.start.torch.names import rules
from cleanclip_jax.start.torch.sidecars import folder_files
from cleanclip_jax.start.torch.write import contract
from cleanclip_jax.text.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
GOLDEN = Path(__file__).parents[3] / "shared/golden"
VIT = VARIANTS["ViT-test"]


@pytest.fixture(scope="module")
def files(golden, tmp_path_factory):
    """The golden models in the original's format, and a workdir of each."""
    folder = tmp_path_factory.mktemp("files")
    for kind in KINDS:
        cleanclip_file(golden, kind, folder / f"{kind}.pt")
        assert cli.main(["convert", str(folder / f"{kind}.pt"), str(folder / kind)]) == 0
    return folder


def convert(*words):
    assert cli.main(["convert", *map(str, words)]) == 0


def fails(capsys, *words):
    """Runs a conversion that must fail as the user's mistake; returns its one line."""
    capsys.readouterr()
    assert cli.main(["convert", *map(str, words)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("cleanclip: ")
    return lines[0]


@pytest.mark.parametrize("kind", KINDS)
def test_torch_to_jax_to_torch_gives_back_every_bit(files, kind, tmp_path, capsys):
    convert(files / kind, tmp_path / "out.pt")
    assert "tensors, read back bit for bit" in capsys.readouterr().out
    ours, theirs = (
        torch.load(p, weights_only=True) for p in (tmp_path / "out.pt", files / f"{kind}.pt")
    )
    same_tensors(ours["state_dict"], theirs["state_dict"])
    assert (ours["epoch"], ours["name"]) == (3, "tiny")


@pytest.mark.parametrize("kind", KINDS)
def test_the_originals_own_file_comes_back(kind, tmp_path):
    path = GOLDEN / f"{kind}_cleanclip_checkpoint.pt"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    convert(path, tmp_path / "workdir")
    convert(tmp_path / "workdir", tmp_path / "out.pt")
    ours, theirs = (torch.load(p, weights_only=True) for p in (tmp_path / "out.pt", path))
    same_tensors(ours["state_dict"], theirs["state_dict"])
    # Its optimizer's shape, so that the original's program takes the file up; fresh moments.
    groups, wanted = (x["optimizer"]["param_groups"] for x in (ours, theirs))
    assert [len(g["params"]) for g in groups] == [len(g["params"]) for g in wanted]
    assert [g["weight_decay"] for g in groups] == [g["weight_decay"] for g in wanted]
    assert ours["optimizer"]["state"] == {}


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("openai", "a.pt"),
        ("openai", "a.safetensors"),
        ("open_clip", "a.pt"),
        ("open_clip", "a.safetensors"),
        ("open_clip", "folder"),
        ("open_clip_text", "a.pt"),
        ("open_clip_text", "folder"),
        ("cleanclip", "a.pth"),
        ("huggingface", "folder"),
        ("huggingface", "a.safetensors"),
    ],
)
def test_every_format_there_and_back(files, format, name, tmp_path):
    """Golden to a format, from there to a workdir, and from there to the very same tensors."""
    first, second = tmp_path / "first" / name, tmp_path / "second" / name
    convert(files / "vit", first, "--format", format)
    convert(first, tmp_path / "workdir")
    origin = json.loads((tmp_path / "workdir/interop.json").read_text())
    # A safetensors file doesn't say whose it is; its names are open_clip's as well.
    assert origin["format"] == (
        "open_clip" if first.suffix == ".safetensors" and format == "openai" else format
    )
    convert(tmp_path / "workdir", second, "--format", origin["format"])
    found, wanted = (tensors(path) for path in (second, first))
    same_tensors(found, wanted)
    # And all of them are the golden model's.
    convert(tmp_path / "workdir", tmp_path / "golden.pt", "--format", "cleanclip")
    ours = torch.load(tmp_path / "golden.pt", weights_only=True)["state_dict"]
    theirs = torch.load(files / "vit.pt", weights_only=True)["state_dict"]
    theirs = {name.removeprefix("module."): x for name, x in theirs.items()}
    ours = {name.removeprefix("module."): x for name, x in ours.items()}
    assert ours.keys() == theirs.keys()
    same_tensors({name: ours[name] for name in theirs}, theirs)


def tensors(path):
    if path.is_dir():
        path = next(path.glob("*.safetensors"))
    if path.suffix == ".safetensors":
        return tensors_of(load_file(path))
    content = torch.load(path, weights_only=True)
    return content.get("state_dict", content)


def test_what_is_exported_says_what_goes_with_it(files, tmp_path):
    convert(files / "vit", tmp_path / "hf", "--format", "huggingface")
    processor = json.loads((tmp_path / "hf/preprocessor_config.json").read_text())
    assert processor["size"] == {"shortest_edge": 32} and processor["resample"] == 3
    assert processor["crop_size"] == {"height": 32, "width": 32}
    np.testing.assert_allclose(processor["image_mean"], [0.48145466, 0.4578275, 0.40821073])
    np.testing.assert_allclose(processor["image_std"], [0.26862954, 0.26130258, 0.27577711])
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["text_config"]["max_position_embeddings"] == 16
    assert {config[f"{t}_config"]["hidden_act"] for t in ("text", "vision")} == {"quick_gelu"}
    convert(files / "vit", tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "numpy") as content:
        settings = json.loads(content.metadata()["cleanclip"])
    assert settings["text"]["context_length"] == 16 and settings["image"]["size"] == 32
    assert settings["image"]["mean"] == processor["image_mean"]


def test_an_open_clip_folder_says_which_of_its_classes_it_is_for(files, tmp_path):
    for format, custom in (("open_clip", None), ("open_clip_text", True)):
        convert(files / "rn", tmp_path / format, "--format", format)
        config = json.loads((tmp_path / format / "open_clip_config.json").read_text())["model_cfg"]
        assert config.get("custom_text") is custom and config["quick_gelu"] is True
        assert config["vision_cfg"]["layers"] == [1, 2, 1, 1] and config["embed_dim"] == 48


def test_hugging_face_takes_what_is_written(files, tmp_path):
    transformers = pytest.importorskip("transformers")
    convert(files / "vit", tmp_path / "hf", "--format", "huggingface")
    model = transformers.CLIPModel.from_pretrained(tmp_path / "hf", local_files_only=True)
    packed = torch.load(files / "vit.pt", weights_only=True)["state_dict"]
    wanted = packed["module.transformer.resblocks.1.attn.in_proj_weight"][64:128]
    assert torch.equal(model.text_model.encoder.layers[1].self_attn.k_proj.weight, wanted)


class Strict(torch.nn.Module):
    """A module that has a checkpoint's tensors: parameters, and batch norm's buffers."""

    def __init__(self, tensors):
        super().__init__()
        for name, x in tensors.items():
            *parents, last = name.split(".")
            module = self
            for part in parents:
                if part not in module._modules:
                    module.add_module(part, torch.nn.Module())
                module = module._modules[part]
            if last.startswith(("running", "num_batches")):
                module.register_buffer(last, torch.zeros_like(x))
            else:
                module.register_parameter(last, torch.nn.Parameter(torch.zeros_like(x)))


@pytest.mark.slow
def test_a_whole_way_round(golden, tmp_path):
    """A .pt in, finetuned here with CleanCLIP's loss, a .pt out that loads with strict=True."""
    content = cleanclip_file(golden, "rn", tmp_path / "in.pt")
    # Matrices in half precision, as in OpenAI's files.
    state = {n: x.half() if x.ndim > 1 else x for n, x in content["state_dict"].items()}
    torch.save({**content, "state_dict": state}, tmp_path / "in.pt")
    words = (f"a {a}{b}ly {a}{b}{c}ing" for a in "abcdefgh" for b in "klmnop" for c in "xyz")
    Tokenizer.train(words, 300, 16).save(tmp_path / "tokenizer.json")
    convert(tmp_path / "in.pt", tmp_path / "in", f"--tokenizer={tmp_path}/tokenizer.json")
    config = small_config("cleanclip")
    config.start, config.train.steps = str(tmp_path / "in"), 2
    config.evaluation.data = None
    train(config, tmp_path / "cleaned")
    convert(tmp_path / "cleaned", tmp_path / "out.pt")
    out = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(out["state_dict"]) == list(state) and out["name"] == "tiny"
    Strict(state).load_state_dict(out["state_dict"], strict=True)
    for name, before in state.items():
        after = out["state_dict"][name]
        assert (after.dtype, after.shape) == (before.dtype, before.shape), name
        if name.endswith("num_batches_tracked"):
            assert after == before + 2
        elif name.endswith("running_mean"):
            assert not torch.equal(after, before), name
    name = "module.visual.layer4.0.conv2.weight"
    assert not torch.equal(out["state_dict"][name], state[name])
    # A finetuning after this one goes on counting, and a type can be asked for.
    name = "visual.bn1.num_batches_tracked"
    origin = RunStart(tmp_path / "cleaned").origin()
    assert origin is not None and origin.counters[name] == state[f"module.{name}"] + 2
    convert(tmp_path / "cleaned", tmp_path / "single.pt", "--dtype=float32")
    single = torch.load(tmp_path / "single.pt", weights_only=True)["state_dict"]
    assert {x.dtype for x in single.values()} == {torch.float32, torch.int64}


def test_positions_for_another_size(files, tmp_path, capsys):
    convert(files / "vit.pt", tmp_path / "large", "--image_size=48")
    assert "positions interpolated: 32 to 48 pixels" in capsys.readouterr().out
    convert(tmp_path / "large", tmp_path / "large.pt")
    state = torch.load(tmp_path / "large.pt", weights_only=True)["state_dict"]
    assert state["module.visual.positional_embedding"].shape == (37, 64)


def test_mistakes_are_one_line_and_nothing_is_written(files, tmp_path, capsys):
    bad, dest = tmp_path / "bad.pt", tmp_path / "new"
    good = torch.load(files / "vit.pt", weights_only=True)["state_dict"]

    nan = good["module.visual.proj"].clone()
    nan[2, 3] = float("nan")
    for name, change, message in (
        ("visual.proj", nan, "visual.proj holds 1 values that are NaN"),
        ("visual.proj", torch.zeros(64, 49), "visual.proj is 64 x 49, not 64 x 48"),
        ("ln_final.bias", None, "ln_final.bias is missing"),
        ("more", torch.zeros(1), "more is left over"),
    ):
        state = {**good, f"module.{name}": change}
        state = {name: x for name, x in state.items() if x is not None}
        torch.save({"epoch": 1, "name": "x", "state_dict": state}, bad)
        assert message in fails(capsys, bad, dest)
        assert not dest.exists() and sorted(os.listdir(tmp_path)) == ["bad.pt"]
    bad.write_bytes((files / "vit.pt").read_bytes()[:50_000])
    assert "cut short or damaged" in fails(capsys, bad, dest)
    bad.write_text("not a checkpoint")
    assert "no checkpoint of PyTorch" in fails(capsys, bad, dest)
    tensors = random_values("openai", VIT)
    wide = {name: np.concatenate([x] * 3, -1) if x.ndim else x for name, x in tensors.items()}
    save_file(wide, tmp_path / "bad.safetensors")
    assert "architecture that is not here" in fails(capsys, tmp_path / "bad.safetensors", dest)
    for name in ("pipe", "pipe.pt"):
        os.mkfifo(tmp_path / name)
        assert f"{name} is a folder, pipe or device" in fails(capsys, tmp_path / name, dest)
        (tmp_path / name).unlink()
    for words, message in (
        ((tmp_path / "absent.pt", dest), "there is no"),
        ((tmp_path / "absent", dest), "there is no"),
        ((files / "vit.pt", tmp_path), "exists: name a new"),
        ((files / "vit", bad), "exists: name a new"),
        ((files / "vit.pt", tmp_path / "b.pt"), "so DEST is a workdir"),
        ((files / "vit.pt", dest, "--format=huggingface"), "is no huggingface checkpoint"),
        ((files / "vit.pt", dest, "--dtype=float16"), "--dtype is for a SOURCE that is a workdir"),
        ((files / "vit", dest, "--activation=gelu"), "was trained with quick_gelu, not gelu"),
        ((files / "vit", dest, "--key=a"), "--key is for a SOURCE"),
        ((files / "vit.pt", dest, "--key=model"), "key: unknown 'model'"),
        ((files / "vit", dest, "--format=cleanclip"), "in cleanclip format is a .pt file"),
        ((files / "rn", dest, "--format=huggingface"), "CLIPModel has no ResNet"),
        ((files / "vit.pt", dest, "--image_size=33"), "is not a multiple of 8"),
        ((files / "vit.pt", dest, "--config.seed=1"), "takes no config keys"),
        ((files / "vit.pt", dest, "--fromat=x"), "'--format'"),
        ((files / "vit.pt", bad / "new"), "can't be used"),
        ((files / "vit", bad / "new.pt"), "can't be used"),
        ((files / "vit.pt", "/proc/new"), "can't be written"),
    ):
        assert message in fails(capsys, *words), words
        assert not dest.exists()
    assert sorted(os.listdir(tmp_path)) == ["bad.pt", "bad.safetensors"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's capabilities")
def test_a_read_only_destination_is_one_line(files, tmp_path, capsys):
    with locked(tmp_path, 0o555):
        assert "can't be written" in fails(capsys, files / "vit.pt", tmp_path / "new")


@pytest.mark.faults
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_below_three_checkpoints(tmp_path):
    """At ViT-B/32 size, there and back."""
    state = {
        rule.name: torch.full(rule.shape, 0.01) for rule in rules("openai", VARIANTS["ViT-B/32"])
    }
    torch.save(state, tmp_path / "in.pt")
    del state
    size = (tmp_path / "in.pt").stat().st_size
    program = """import sys, torch
import cleanclip_jax
from cleanclip_jax import cli
from cleanclip_jax.jobs import convert
def now(what):
    return [line.split()[1] for line in open("/proc/self/status") if line.startswith(what)][0]
libraries = now("VmRSS")
first, workdir, last = sys.argv[1:]
assert cli.main(["convert", first, workdir]) == 0
assert cli.main(["convert", workdir, last]) == 0
print(libraries, now("VmHWM"))"""
    paths = [str(tmp_path / name) for name in ("in.pt", "workdir", "out.pt")]
    done = subprocess.run(
        [sys.executable, "-c", program, *paths], capture_output=True, text=True, check=True
    )
    libraries, peak = (int(word) * 1024 for word in done.stdout.split()[-2:])
    assert peak - libraries <= 3 * size


def test_a_compiled_models_checkpoint_goes_back_as_it_came(golden, tmp_path):
    """{'model': ...} behind `module._orig_mod.`, with an average of the weights beside."""
    bare = tensors_of(golden("vit_state_dict"))
    state = {f"module._orig_mod.{name}": x for name, x in bare.items()}
    average = {name: x + 1 for name, x in bare.items()}
    torch.save({"epoch": 2, "model": state, "model_ema": average}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "workdir")
    convert(tmp_path / "workdir", tmp_path / "b.pt")
    again = torch.load(tmp_path / "b.pt", weights_only=True)
    assert again["epoch"] == 2
    same_tensors(again["model"], state)
    _, variables = cleanclip_jax.load(tmp_path / "a.pt", key="model_ema")
    projection = average["visual.proj"].numpy()
    np.testing.assert_array_equal(variables["params"]["visual"]["projection"], projection)


def test_gelu_goes_to_programs_that_run_quickgelu_when_it_is_named_alone(tmp_path, capsys):
    save_file(random_values("open_clip", VIT), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "workdir")
    assert "warning: nothing says which activation" in capsys.readouterr().out
    for format in ("openai", "cleanclip"):
        words = tmp_path / "workdir", tmp_path / f"{format}.pt", f"--format={format}"
        assert f"{format} programs run QuickGELU, and this model is of gelu" in fails(
            capsys, *words
        )
        assert not (tmp_path / f"{format}.pt").exists()
        convert(*words, "--activation=gelu")
    convert(tmp_path / "workdir", tmp_path / "b.safetensors")


@pytest.mark.slow
def test_an_architecture_without_a_name_goes_round(tmp_path, capsys):
    """Numbers of its own are in the config and in what is exported, and some formats lack them."""
    odd = replace(VIT, vision_width=96, vision_head_width=24, text_hidden=80, vision_epsilon=1e-3)
    odd = replace(odd, causal=False, text_pool="last", vision_pool="mean", ln_pre=False)
    save_file(random_values("open_clip", odd), tmp_path / "open_clip_model.safetensors")
    said = folder_files("open_clip", None, contract("it", odd, "gelu_tanh"), odd)
    (tmp_path / "open_clip_config.json").write_text(json.dumps(said["open_clip_config.json"]))
    convert(tmp_path, tmp_path / "workdir")
    for name in ("a.safetensors", "folder"):
        convert(tmp_path / "workdir", tmp_path / name, "--format=open_clip")
        found = open_checkpoint(tmp_path / name)
        assert (found.numbers, found.activation) == (odd, "gelu_tanh")
    for format, message in (
        ("huggingface", "vision pool is mean, and huggingface programs build it with token"),
        ("openai", "vision head width is 24, and openai programs build it with 64"),
    ):
        dest = tmp_path / ("b" if format == "huggingface" else "b.pt")
        assert message in fails(capsys, tmp_path / "workdir", dest, f"--format={format}")
    model, _ = cleanclip_jax.load(tmp_path / "workdir")
    assert model.variant == odd and model.compute.activation == "gelu_tanh"


@pytest.mark.parametrize("format", ["huggingface", "open_clip"])
def test_a_trained_tokenizer_goes_along_with_a_folder(files, format, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    words = (f"a {a}{b}ly {a}{b}{c}ing" for a in "abcdefgh" for b in "klmnop" for c in "xyz")
    tokenizer = Tokenizer.train(words, 300, 16)
    tokenizer.save(tmp_path / "tokenizer.json")
    convert(files / "vit.pt", tmp_path / "run", f"--tokenizer={tmp_path}/tokenizer.json")
    capsys.readouterr()
    convert(tmp_path / "run", tmp_path / "folder", "--format", format)
    assert "its tokenizer is not CLIP's" in capsys.readouterr().out
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    captions = ["A bkly  cing!", "an akxing dog"]
    ids = theirs(captions, padding="max_length", truncation=True)["input_ids"]
    for row, ours in zip(ids, tokenizer(captions).tolist(), strict=True):
        end = ours.index(299)
        assert len(row) == len(ours) and row[: end + 1] == ours[: end + 1]
    # And comes back with it.
    convert(tmp_path / "folder", tmp_path / "again")
    np.testing.assert_array_equal(
        RunStart(tmp_path / "again").tokenizer(captions), tokenizer(captions)
    )
