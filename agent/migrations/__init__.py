"""How databases of older versions become those of this one, step by step; agent/tables.py is where they end."""
