/** What the gateway says: events, and the view that they fold to. The view's JSON schema is broker/schemas/view.json. */
export {};
