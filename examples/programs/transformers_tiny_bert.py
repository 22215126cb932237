"""A tiny BERT with random weights from Hugging Face transformers, fine-tuned for a few steps."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import BertConfig, BertForSequenceClassification, set_seed


def batches(count, size=16, length=12):
    generator = torch.Generator().manual_seed(10)
    for _ in range(count):
        ids = torch.randint(5, 50, (size, length), generator=generator)
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": (ids[:, 1] > 27).long()}


def main():
    set_seed(10)
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=2
    )
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    for i, batch in enumerate(batches(12)):
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if i % 4 == 3:
            print(f"step {i + 1}: loss {output.loss.item():.2f}, logits {tuple(output.logits.shape)}")
    model.eval()
    with torch.no_grad():
        print("hidden states:", len(model(**next(batches(1)), output_hidden_states=True).hidden_states))


if __name__ == "__main__":
    main()
