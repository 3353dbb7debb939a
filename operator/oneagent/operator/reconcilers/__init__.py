"""What an operator sees to, one concern a module; see `worker.Reconciler`."""
