"""How an evaluation is shown: page, terminal, tables. Never torch."""
