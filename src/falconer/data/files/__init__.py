"""From a path to the text and the rows of a file: unpacked, decoded and parsed, whatever the rows are about."""
