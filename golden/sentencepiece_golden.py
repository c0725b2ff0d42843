#!/usr/bin/env python3
"""Writes sentencepiece.model, a small tokenizer of the kind that Llama, Mistral and Baichuan have, and sentencepiece.json:
texts with the ids that SentencePiece itself gives them.

    pip install sentencepiece==0.2.3
    python golden/sentencepiece_golden.py [FOLDER]
"""
import io
import json
import pathlib
import sys

import sentencepiece

CORPUS = """Compress the following sentence into embedding: title: The Shawshank Redemption tag: Drama
title: The Godfather tag: Crime, Drama description: The ageing patriarch of a crime dynasty hands over to his son.
title: Toy Story tag: Animation, Children, Comedy description: A cowboy doll is jealous of a new spaceman figure.
title: Heat tag: Action, Crime, Thriller description: A group of thieves feel the heat from the police.
title: Amélie tag: Romance description: An innocent and naive girl in Paris decides to help those around her.
title: 2001: A Space Odyssey (1968) tag: Sci-Fi description: Humanity finds a mysterious object beneath the surface.
Moisturising cream for the face, 50 ml. With aloe vera and vitamin E, for sensitive skin.
Shampoo and conditioner, 2 x 400 ml, for dry and damaged hair. Made with natural ingredients."""
TEXTS = [
    "Compress the following sentence into embedding: title: Heat (1995)tag: Crime", "", " ", "  two  spaces  ", "a\nb\tc",
    "Amélie à Paris", "日本語 and emoji 🎬", "12345 67", "THE THEME of then", "x" * 40, "don't stop... now!",
]  # fmt: skip


def main(folder):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines() * 4), model_writer=model, model_type="bpe", vocab_size=420,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        minloglevel=2)  # fmt: skip
    (folder / "sentencepiece.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    out = [{"text": t, "ids": processor.encode(t)} for t in TEXTS]
    (folder / "sentencepiece.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent))
