"""One page with everything that the project can show: `zoo report --all`."""
