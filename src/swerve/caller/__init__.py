"""The calling side of a handle: it watches the view, routes calls and carries Python objects."""
