"""Tuning prompts on embeddings: batches of a bank, schedules."""
