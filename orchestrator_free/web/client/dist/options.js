/** What a session is made with, what it tells, and what can be said to it. */
export {};
