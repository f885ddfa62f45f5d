"""The record of a run: its events, and its curves in TensorBoard files, mlflow and wandb."""
