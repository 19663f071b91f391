"""Starts tritonserver on `model_repository/` and keeps it serving: `sightline-serve`."""
