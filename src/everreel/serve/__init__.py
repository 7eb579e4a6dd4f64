"""Films over the wire: jobs, the HTTP interface, tools for agents, and the page."""
