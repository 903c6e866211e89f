"""A session's log as events: what of it is one, the ordered reader, consumers at their own pace, subscriptions."""
