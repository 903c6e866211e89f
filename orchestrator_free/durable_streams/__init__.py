"""The Durable Streams protocol over JetStream: its rules, pure, and the streams themselves. HTTP is the gateway's."""
