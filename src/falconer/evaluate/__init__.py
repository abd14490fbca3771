"""How good the replies are: text metrics, trivial floors, predictions files, the report."""
