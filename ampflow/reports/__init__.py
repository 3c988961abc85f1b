"""Reports: the page, results.json and the tables of a run."""
