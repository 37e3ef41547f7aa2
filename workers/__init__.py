"""Workers turn jobs into token events; the only package that imports torch, and only in engines."""
