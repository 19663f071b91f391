"""The code that the Python steps of `model_repository/` run. Nothing here knows which profile it serves."""
