"""Facts of the data sets, split files and few-shot lists. Nothing here imports Dassl."""
