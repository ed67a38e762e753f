"""The page "Your own model": all its code, on tiny models with random weights. Nothing is downloaded."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import re
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.pytorch_utils import Conv1D

from course_lib import layers
from course_lib.data import Grammar
from course_lib.models import seeded
from course_lib.pruning import criteria, layerwise, masks

PAGE = Path(__file__).resolve().parents[2] / "book" / "own-model.md"
WORDS = Grammar(0).words
LAYERS = 2
LLAMA = LlamaConfig(
    vocab_size=len(WORDS) + 1,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
)
GPT2 = GPT2Config(
    vocab_size=len(WORDS) + 1,
    n_embd=16,
    n_layer=LAYERS,
    n_head=4,
    n_positions=256,
    bos_token_id=0,
    eos_token_id=0,
)


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def prepare(folder: Path) -> None:
    """The folders and files that the page's reader has."""
    seeded(0, lambda: LlamaForCausalLM(LLAMA)).save_pretrained(folder / "my-model")
    seeded(1, lambda: GPT2LMHeadModel(GPT2)).save_pretrained(folder / "my-gpt2")
    tokenizer = Tokenizer(WordLevel({w: k for k, w in enumerate([*WORDS, "?"])}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder / "my-model")
    for seed, file in enumerate(["training.txt", "test.txt"]):
        tokens = Grammar(0).sample(40, 64, seed=seed).tokens
        words = " ".join(WORDS[k] for k in tokens.flatten().tolist())
        (folder / file).write_text(words, encoding="utf-8")


@pytest.fixture(scope="module")
def after(tmp_path_factory):
    """What each block of the page leaves behind: one dictionary of variables per block."""
    folder, here, found, variables = tmp_path_factory.mktemp("own-model"), Path.cwd(), [], {}
    prepare(folder)
    os.chdir(folder)
    try:
        for block in blocks():
            exec(compile(block, str(PAGE), "exec"), variables)  # noqa: S102
            found.append(dict(variables))
    finally:
        os.chdir(here)
    return folder, found


def having(after, text: str) -> dict:
    """The variables after the only block that has this text."""
    (place,) = [k for k, block in enumerate(blocks()) if text in block]
    return after[1][place]


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def test_windows_are_the_texts_words_in_order(after):
    found = having(after, "def windows")
    text = (after[0] / "training.txt").read_text("utf-8").split()
    assert found["calibration"].shape[1] == found["test"].shape[1] == 256
    assert [WORDS[k] for k in found["calibration"][1].tolist()] == text[256:512]
    assert not torch.equal(found["calibration"][0], found["test"][0])


def test_the_measure_is_the_mean_cross_entropy_of_all_but_the_first_token(after):
    found = having(after, "def nats")
    model, test = found["model"], found["test"]
    with torch.no_grad():
        log_p = model(test).logits.double().log_softmax(-1)[:, :-1]
    wanted = -log_p.gather(-1, test[:, 1:, None]).mean()
    assert found["nats"](model) == pytest.approx(float(wanted), rel=1e-5)


def test_the_names_are_all_layers_of_the_blocks_and_not_the_last_one(after):
    found = having(after, "names = [\n")
    assert len(found["names"]) == 7 * LAYERS
    assert {*layers.weights(found["model"])} - {*found["names"]} == {"lm_head.weight"}


@pytest.mark.parametrize("method", ["layerwise.wanda", "num_hidden_layers"])
def test_half_of_every_row_goes_and_nothing_else_changes(after, method):
    found = having(after, method)
    model, pruned = found["model"], found["pruned"]
    assert {*found["keep"]} == {*found["names"]}
    for name, weight in pruned.named_parameters():
        if name in found["keep"]:
            assert ((weight != 0).sum(1) == weight.shape[1] // 2).all()
            assert torch.equal(weight != 0, found["keep"][name])
        else:
            assert torch.equal(weight, model.get_parameter(name))
    assert masks.sparsity(found["keep"]) == 0.5


def test_block_by_block_is_not_all_at_once(after):
    """The second block has read what the pruned first block gives; the first has read the same."""
    found = having(after, "num_hidden_layers")
    at_once, _ = layerwise.sparsegpt(
        found["model"], found["calibration"], found["half"], names=found["names"]
    )
    for name in found["names"]:
        same = torch.equal(at_once.get_parameter(name), found["pruned"].get_parameter(name))
        assert same == (".layers.0." in name)


def test_the_repair_of_one_layer_keeps_its_outputs_better(after):
    found = having(after, "layerwise.refit")
    (name,) = found["one"]
    gram = layerwise.gram(found["model"], found["calibration"], [name])[name]
    weight = found["model"].get_parameter(name).detach().double()
    lost = []
    for new in (found["repaired"].get_parameter(name).detach(), weight * found["keep"][name]):
        change = weight - new.double()
        lost.append(float(((change @ gram) * change).sum()))
    assert lost[0] < lost[1]


def test_a_saved_file_is_as_long_as_the_dense_one_and_holds_the_zeros(after):
    folder, _ = after
    assert bytes_of(folder / "pruned-model") == bytes_of(folder / "my-model")
    again = LlamaForCausalLM.from_pretrained(folder / "pruned-model")
    for name, mask in having(after, "num_hidden_layers")["keep"].items():
        assert torch.equal(again.get_parameter(name) != 0, mask)


def test_gpt2_is_refused_until_its_layers_are_linear(after):
    original = GPT2LMHeadModel.from_pretrained(after[0] / "my-gpt2")
    tokens = having(after, "def windows")["test"]
    for call in (criteria.magnitude, lambda model: layerwise.gram(model, tokens)):
        with pytest.raises(ValueError, match=r"'transformer.h.0.attn.c_attn' is a Conv1D"):
            call(original)
    model = having(after, "def as_linear")["model"]
    assert not any(isinstance(module, Conv1D) for module in model.modules())
    with torch.no_grad():
        wanted = original(tokens).logits
        torch.testing.assert_close(model(tokens).logits, wanted, rtol=1e-4, atol=1e-5)


def test_the_saved_gpt2_is_the_pruned_one(after):
    found = having(after, "pruned-gpt2")
    again = GPT2LMHeadModel.from_pretrained(after[0] / "pruned-gpt2")
    assert len(found["keep"]) == 4 * LAYERS
    for name, mask in found["keep"].items():
        assert torch.equal(again.get_parameter(name).t() != 0, mask)
    with torch.no_grad():
        wanted = found["pruned"](found["test"]).logits
        torch.testing.assert_close(again(found["test"]).logits, wanted, rtol=1e-4, atol=1e-5)
