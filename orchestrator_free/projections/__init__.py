"""The session in the words of other protocols: pure functions from the fold to what a protocol's client is told.

`answer` says what is new in an answer since a client was last told; each protocol turns that into its own messages.
"""
