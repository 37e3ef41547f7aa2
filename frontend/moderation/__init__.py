"""Whether what somebody wrote may be sent to a model.

`verdict` says what a moderator is, `words` and `endpoint` are the two there are, and `gate` asks
them, logs what they decided and refuses what they flag. Without settings nothing leaves the
machine. docs/moderation.md has the settings.
"""
