"""How good the replies are: text metrics, baselines, predictions files, the report."""
