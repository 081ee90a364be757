"""An edit with its report: what it does, what it costs, and what that is called."""
