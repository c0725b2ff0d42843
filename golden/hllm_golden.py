#!/usr/bin/env python3
"""Writes hllm-gqa-dh128.safetensors: a small model with heads of 128, computed by plain PyTorch in float32.

    pip install torch transformers safetensors numpy
    python golden/hllm_golden.py [FOLDER]

The computation is that of bf16_errors.py, which has to agree with the numbers of the official code before it writes any.
"""
import json
import pathlib
import sys

import torch
from bf16_errors import run
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaModel

D, VOCABULARY = 32, 48
CONFIG = {
    "hidden_size": D, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 128, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 256,
}  # fmt: skip
LENGTHS = [1, 3, 12, 33, 64, 71, 100, 139]  # of the texts; all but the first begin alike
HISTORY = 4


class Golden(dict):
    """What is known so far, as an opened safetensors file."""

    def get_tensor(self, name):
        return self[name]

    def metadata(self):
        return {"config": json.dumps(CONFIG), "item_emb_token_n": "1", "max_text_length": str(max(LENGTHS)), "lr": "1e-3",
                "weight_decay": "0.01", "clip": "1.0", "nce_threshold": "0.99", "source": "hllm_golden.py"}  # fmt: skip


def parameters():
    sides = {f"{side}_llm.model.{name}": p
             for side in ("item", "user") for name, p in LlamaModel(LlamaConfig(**CONFIG)).state_dict().items()}  # fmt: skip
    random = {name: torch.randn(p.shape) * 0.15 + (1 if "norm" in name else 0) for name, p in sides.items()}
    return random | {"item_emb_tokens": torch.randn(1, 1, D) * 0.15, "logit_scale": torch.tensor(2.66)}


def batch():
    start = torch.randint(1, VOCABULARY, (2,))
    texts = [torch.cat([start, torch.randint(1, VOCABULARY, (n,))])[:n] if n > 1 else start[1:] for n in LENGTHS]
    return {
        "catalogue_ids": torch.cat([torch.cat([text, torch.zeros(1, dtype=torch.long)]) for text in texts]),
        "catalogue_lens": torch.tensor([len(text) + 1 for text in texts]),
        "pos_items": torch.tensor([[5, 0, 7, 3, 6], [1, 2, 4, 0, 4]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]),
        "neg_items": torch.tensor([[2, 6, 1], [5, 5, 7]]),
        "predict_item_seq": torch.tensor([[3, 8, 1, 6], [0, 0, 0, 5]]),
    }


def main(folder):
    torch.set_num_threads(1)
    torch.manual_seed(128)
    golden = Golden({"param." + name: p for name, p in parameters().items()})
    golden |= {"batch." + name: t for name, t in batch().items()}
    found = run(golden, bf16=False)
    found["out.predict_scores"] = torch.cat([torch.zeros(2, 1), found["out.predict_scores"]], 1)  # the padding item
    kept = {name: t for name, t in found.items() if not name.startswith("after.") or "q_proj" in name or "norm" in name}
    tensors = {name: t.contiguous() for name, t in (golden | kept).items()}
    save_file(tensors, folder / "hllm-gqa-dh128.safetensors", golden.metadata())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent))
