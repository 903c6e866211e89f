"""HTTP: routes, the SSE feed and its transport, problem documents."""
