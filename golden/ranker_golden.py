#!/usr/bin/env python3
"""Writes ranker-late.safetensors and ranker-early.safetensors: what a ranker computes, by plain PyTorch in float64.

    pip install torch transformers safetensors numpy
    python golden/ranker_golden.py [FOLDER]

Nothing is shared here: every labelled event is a sequence of its own, its history and then [USER] or the target, through
Hugging Face's LlamaModel; every occurrence of an item is encoded by itself. Gradients are autograd's.
"""
import json
import pathlib
import sys

import numpy
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaModel

D, VOCABULARY, EPS, LAMBDA, THRESHOLD = 16, 24, 1e-6, 0.3, 0.99
CONFIG = {
    "model_type": "llama", "hidden_size": D, "intermediate_size": 20, "num_attention_heads": 2, "num_key_value_heads": 1,
    "vocab_size": VOCABULARY, "rms_norm_eps": EPS, "rope_theta": 10000.0, "max_position_embeddings": 64,
}  # fmt: skip
ITEM_LAYERS, USER_LAYERS, MAX_HISTORY, MAX_TEXT = 1, 2, 6, 8

# Items of each user, and a label for each event: None is history only. One user has a single event, one the longest history.
SEQUENCES = [[0, 1, 2, 3, 1, 4, 5], [6], [2, 7], [8, 3, 3, 9]]
LABELS = [[1, 0, None, 1, 0, 0, 1], [1], [None, 0], [0, 1, 1, 0]]
PRIORS = [[0.5, -1.25, 0, 2, 0.75, -0.5, 1], [-2], [0, 1.5], [0.25, -0.75, 3, 0]]  # added to the logits, where they are used
NEGATIVES = [10, 3, 11, 0, 10, 9]


def rmsnorm(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * weight


class Ranker(torch.nn.Module):
    def __init__(self, late):
        super().__init__()
        self.late = late
        self.item = LlamaModel(LlamaConfig(**CONFIG, num_hidden_layers=ITEM_LAYERS))
        self.user = LlamaModel(LlamaConfig(**CONFIG, num_hidden_layers=USER_LAYERS))
        make = lambda *shape: torch.nn.Parameter(torch.empty(shape))
        self.item_token, self.logit_scale = make(D), torch.nn.Parameter(torch.tensor([2.0]))
        self.head = torch.nn.ParameterDict({"user_norm": make(D), "gate_proj": make(D, (3 if late else 1) * D)})
        self.head["up_proj"] = make(*self.head["gate_proj"].shape)
        self.head["down_proj"], self.head["bias"] = make(1, D), make(1)
        if late:
            self.head["item_norm"], self.head["user_token"] = make(D), make(D)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if p is not self.logit_scale:
                    p.normal_(1.0 if "norm" in name else 0.0, 0.3)

    def vector(self, tokens):
        x = torch.cat([self.item.embed_tokens(torch.tensor(tokens)), self.item_token[None]])
        return self.item(inputs_embeds=x[None]).last_hidden_state[0, -1]

    def states(self, x):
        return self.user(inputs_embeds=torch.stack(x)[None]).last_hidden_state[0]

    def logit(self, history, target):
        h = self.head
        u = rmsnorm(self.states([*history, h["user_token"] if self.late else target])[-1], h["user_norm"])
        x = u
        if self.late:
            e = rmsnorm(target, h["item_norm"])
            x = torch.cat([u, e, u * e])
        hidden = torch.nn.functional.silu(h["gate_proj"] @ x) * (h["up_proj"] @ x)
        return (h["down_proj"] @ hidden + h["bias"])[0]

    def forward(self, tokens, weight, share):
        """Loss and logits with InfoNCE of some weight, and some share of the priors."""
        logits, labels, losses = [], [], []
        n = torch.stack([self.vector(tokens[i]) for i in NEGATIVES])
        for items, marks, priors in zip(SEQUENCES, LABELS, PRIORS):
            vectors = [self.vector(tokens[i]) for i in items]
            for t, label in enumerate(marks):
                if label is not None:
                    logits.append(self.logit(vectors[:t], vectors[t]) + share * priors[t])
                    labels.append(float(label))
            if len(items) > 1:
                for t, u in enumerate(self.states(vectors[:-1])):
                    p, target = vectors[t + 1], items[t + 1]
                    cos = torch.nn.functional.cosine_similarity
                    scale = self.logit_scale.clamp(0, numpy.log(100)).exp()[0]
                    keep = (cos(p[None], n) <= THRESHOLD) & (torch.tensor(NEGATIVES) != target)
                    losses.append(torch.logsumexp(scale * torch.cat([cos(u, p, 0)[None], cos(u[None], n)[keep]]), 0)
                                  - scale * cos(u, p, 0))
        logits, nce = torch.stack(logits), torch.stack(losses).mean()
        bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor(labels))
        return bce + weight * nce, logits, bce, nce


def official(name):
    """A parameter's name in a checkpoint; None: it is not kept."""
    side, rest = name.split(".", 1) if "." in name else (name, "")
    if side in ("item", "user"):
        return None if name == "user.embed_tokens.weight" else f"{side}_llm.model.{rest}"
    if side == "head":
        return f"ranker.{rest}" + ("" if rest in ("bias", "user_token") else ".weight")
    return {"item_token": "item_emb_tokens", "logit_scale": "logit_scale"}[name]


def main(folder):
    torch.set_default_dtype(torch.float64)
    for number, fusion in enumerate(("late", "early")):
        torch.manual_seed(7 + number)
        model = Ranker(fusion == "late")
        tokens = [torch.randint(0, VOCABULARY, (1 + i % MAX_TEXT,)).tolist() for i in range(12)]
        named = {official(k): p for k, p in model.named_parameters() if official(k)}
        f32 = lambda t: numpy.ascontiguousarray(t.detach().numpy().astype(numpy.float32))
        i64 = lambda values: numpy.array(values, dtype=numpy.int64)
        with torch.no_grad():  # what float32 holds
            for p in model.parameters():
                p.copy_(p.float())
        out = {f"param.{k}": f32(p) for k, p in named.items()}
        for kind, weight, share in (("prior", LAMBDA, 1), ("bce", 0.0, 0), ("joint", LAMBDA, 0)):
            model.zero_grad()
            loss, logits, bce, nce = model(tokens, weight, share)
            loss.backward()
            if share:
                out["prior.logits"], out["prior.losses"] = f32(logits), f32(torch.stack([bce, nce]))
            out |= {f"grad.{kind}.{k}": f32(p.grad) for k, p in named.items() if p.grad is not None and p.grad.any()}
        out["out.logits"], out["out.losses"] = f32(logits), f32(torch.stack([bce, nce]))
        out["batch.token_ids"], out["batch.token_lens"] = i64(sum(tokens, [])), i64([len(t) for t in tokens])
        out["batch.items"], out["batch.lens"] = i64(sum(SEQUENCES, [])), i64([len(s) for s in SEQUENCES])
        out["batch.labels"] = i64([-1 if y is None else y for y in sum(LABELS, [])])
        out["batch.priors"] = numpy.array(sum(PRIORS, []), dtype=numpy.float32)
        out["batch.negatives"] = i64(NEGATIVES)
        meta = {"config": json.dumps(CONFIG), "item_layers": str(ITEM_LAYERS), "user_layers": str(USER_LAYERS),
                "max_history": str(MAX_HISTORY), "max_text_length": str(MAX_TEXT), "fusion": fusion,
                "lambda": str(LAMBDA)}  # fmt: skip
        save_file(out, folder / f"ranker-{fusion}.safetensors", meta)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent))
