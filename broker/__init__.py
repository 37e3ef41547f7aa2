"""The Redis schema of Heliograph and every operation on it.

Both other packages talk to each other only through this one. It knows nothing of tensors, HTTP or
pictures: importing it opens no socket, reads no environment and pulls in no torch, flask or PIL.
"""
