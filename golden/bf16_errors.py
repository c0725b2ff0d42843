#!/usr/bin/env python3
"""What bf16 costs in plain PyTorch: relative errors of a bf16 run against the golden float32 numbers, for each golden file.

bf16_errors.json is its output; tests allow a device that computes in bf16 twice these errors forward and five times backward.
"Plain" is what users of PyTorch get: float32 master weights, torch.autocast(bfloat16), Hugging Face's Llama, eager attention.
A float32 run comes first and has to agree with the golden numbers.

    bf16_errors.py golden/hllm-*.safetensors >golden/bf16_errors.json      (torch, transformers, safetensors)
"""
import copy, json, math, os, sys

import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import LlamaConfig, LlamaModel


MASKED = torch.finfo(torch.bfloat16).min


class Hllm(torch.nn.Module):
    def __init__(self, golden, config):
        super().__init__()
        self.item, self.user = LlamaModel(config), LlamaModel(copy.deepcopy(config))
        for side, model in ("item", self.item), ("user", self.user):
            prefix = f"param.{side}_llm.model."
            model.load_state_dict({k[len(prefix):]: golden.get_tensor(k) for k in golden.keys() if k.startswith(prefix)})
        self.user.embed_tokens = None  # its inputs are item vectors
        if "param.item_emb_tokens" in golden.keys():
            self.item_token = torch.nn.Parameter(golden.get_tensor("param.item_emb_tokens").clone())
        self.logit_scale = torch.nn.Parameter(golden.get_tensor("param.logit_scale").clone())

    def name(self, parameter):
        """Of a checkpoint."""
        own = next(n for n, p in self.named_parameters() if p is parameter)
        own = own.replace("item.", "item_llm.model.", 1) if own.startswith("item.") else own
        own = own.replace("user.", "user_llm.model.", 1) if own.startswith("user.") else own
        return own.replace("item_token", "item_emb_tokens")

    def items(self, texts):
        """Vectors of texts, each alone in its row: nothing follows the last place that could leak."""
        length = max(len(t) for t in texts) + hasattr(self, "item_token")
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        mask = torch.zeros(len(texts), length)
        for row, text in enumerate(texts):
            ids[row, :len(text)] = torch.tensor(text)
            mask[row, :len(text) + hasattr(self, "item_token")] = 1
        x = self.item.embed_tokens(ids)
        ends = mask.sum(1).long() - 1
        if hasattr(self, "item_token"):
            at = torch.zeros_like(mask).scatter(1, ends[:, None], 1)[:, :, None]
            x = x * (1 - at) + self.item_token * at
        states = self.item(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state
        if hasattr(self, "item_token"):
            return states[torch.arange(len(texts)), ends]
        return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)

    def users(self, histories, mask):
        return self.user(inputs_embeds=histories, attention_mask=mask, use_cache=False).last_hidden_state

    def logits(self, texts, positives, negatives, mask, threshold):
        """Of each position that counts: the target's, then the negatives', with `MASKED` for those too like the target."""
        with torch.no_grad():
            self.logit_scale.clamp_(0, math.log(100))
        p = self.items([texts[i] for i in positives.flatten()]).view(*positives.shape, -1)
        n = F.normalize(self.items([texts[i] for i in negatives.flatten()]), dim=-1)
        u = F.normalize(self.users(p[:, :-1], mask), dim=-1)[mask > 0]
        p = F.normalize(p[:, 1:], dim=-1)[mask > 0]
        logits = (u @ n.T).masked_fill(p @ n.T > threshold, MASKED)
        return self.logit_scale.exp() * torch.cat([(u * p).sum(-1, keepdim=True).to(logits.dtype), logits], 1)


def run(golden, bf16):
    """Every number that tests compare with a golden file's, by name. Only its batch.*, param.* and metadata are read."""
    meta, get = golden.metadata(), golden.get_tensor
    model = Hllm(golden, LlamaConfig(**json.loads(meta["config"]), attn_implementation="eager"))
    token = int(meta["item_emb_token_n"])
    lengths = get("batch.catalogue_lens").tolist()
    texts = [ids[:len(ids) - token].tolist() for ids in get("batch.catalogue_ids").split(lengths)]
    mask = get("batch.attention_mask").float()
    found = {}

    def precision():  # anew for each step: autocast keeps the weights it has rounded
        return torch.autocast("cpu", torch.bfloat16, enabled=bf16)

    with torch.no_grad(), precision():
        table = model.items(texts)
        found["out.catalogue_embedding"] = table
        sequences = get("batch.predict_item_seq")
        users = model.users(table[(sequences - 1).clamp(0)], (sequences > 0).float())[:, -1]
        found["out.predict_scores"] = F.normalize(users, dim=-1) @ F.normalize(table, dim=-1).T
    trained = list(model.parameters())
    optimiser = torch.optim.AdamW(trained, lr=float(meta["lr"]), weight_decay=float(meta["weight_decay"]))
    steps = []
    for step in range(5):
        optimiser.zero_grad()
        with precision():
            logits = model.logits(texts, get("batch.pos_items"), get("batch.neg_items"), mask, float(meta["nce_threshold"]))
            loss = F.cross_entropy(logits.float(), torch.zeros(len(logits), dtype=torch.long))
        loss.backward()
        if step == 0:
            counted = (logits > MASKED).sum(1).double().mean()
            first = (logits.argmax(1) == 0).double().mean()
            found["out.metrics"] = torch.stack([loss.detach(), counted, first])
            found |= {"grad." + model.name(p): p.grad.clone() for p in trained}
        norm = torch.nn.utils.clip_grad_norm_(trained, float(meta["clip"]))
        steps.append([loss.item(), norm.item()])
        optimiser.step()
    found["out.loss_and_gradnorm_per_step"] = torch.tensor(steps)
    return found | {"after." + model.name(p): p.detach() for p in trained}


def errors(golden, found):
    """Norm of the difference over the norm; of the five steps, loss and gradient norm apart."""
    def error(expected, value):
        expected, value = expected.double().flatten(), value.double().flatten()
        return ((value - expected).norm() / expected.norm()).item()

    out = {}
    for name, value in found.items():
        if name not in golden.keys():  # some parameters after the steps
            continue
        expected = golden.get_tensor(name)
        if name == "out.predict_scores":
            expected = expected[:, 1:]  # without the padding item
        if name == "out.metrics":
            name, expected, value = "out.loss", expected[:1], value[:1]
        if name == "out.loss_and_gradnorm_per_step":
            out["steps.loss"], out["steps.gradient_norm"] = (error(expected[:, i], value[:, i]) for i in (0, 1))
        else:
            out[name] = error(expected, value)
    return out


def main():
    torch.set_num_threads(1)
    result = {}
    for file in sys.argv[1:]:
        with safe_open(file, "pt") as golden:
            exact = errors(golden, run(golden, False))
            worst = max(exact, key=exact.get)
            if not exact[worst] <= 1e-3:
                sys.exit(f"{file}: the float32 run differs from the golden numbers: {worst} by {exact[worst]:.1e}")
            result[os.path.basename(file)] = {k: float(f"{v:.2e}") for k, v in errors(golden, run(golden, True)).items()}
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
