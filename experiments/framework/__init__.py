"""What all experiments share: command line, claims, results folders, pages of results."""
