"""The controller: desired state, reconciliation, and the view that everyone routes by."""
