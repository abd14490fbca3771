"""The README's figures, measured on the reader's own machine, beside what others would have got there."""
