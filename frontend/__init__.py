"""Speaks HTTP and HTML; knows only the broker. Every door goes through `frontend.service`."""
