"""Which replica a call goes to, and when. Decisions only: no I/O."""
