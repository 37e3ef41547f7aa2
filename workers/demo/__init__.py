"""The demo model: a small InternVL-style chat model of coloured shapes, and how it is made."""
