"""The replica process: one instance of the user's class, and the calls it serves."""
