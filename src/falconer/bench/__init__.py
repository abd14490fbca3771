"""The README's figures, measured on the reader's own machine, beside those of other software there."""
