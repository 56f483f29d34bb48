"""Fine-tuning and unlearning on transformers' Trainer."""
