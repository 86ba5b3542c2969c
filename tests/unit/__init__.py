"""One module at a time: no network, no accelerator, under a minute together."""
