"""The README's numbers, measured on the reader's own machine, beside what others would have got there."""
