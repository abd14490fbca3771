"""falconer: fine-tune Falcon-7B into a persona-grounded conversation partner."""

__version__ = "0.2.0"
