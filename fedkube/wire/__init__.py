"""How bytes travel: tensors and their limits, frames, transfers, channels. No rounds, no Flower."""
