// The public suite as it is published, pointed at DURABLE_STREAMS_URL. Its own runner is not found by vitest 4.
import { runConformanceTests } from "@durable-streams/server-conformance-tests"

runConformanceTests({ baseUrl: process.env.DURABLE_STREAMS_URL, longPollTimeoutMs: 20000 })
