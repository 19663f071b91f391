"""Turns checkpoints into the artefacts that `model_repository/` loads."""
