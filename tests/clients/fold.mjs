// Folds logs with the TypeScript client's fold. In: lines of {"cut", "events"}; out: for each the view, and the view when
// the first `cut` events are folded, written out, loaded again and the rest folded on.
import { createInterface } from "node:readline";
import { Fold } from "../../orchestrator_free/web/client/dist/index.js";

for await (const line of createInterface({ input: process.stdin })) {
  const { cut, events } = JSON.parse(line);
  const whole = new Fold("s1");
  for (const event of events) whole.apply(event);
  const prefix = new Fold("s1");
  for (const event of events.slice(0, cut)) prefix.apply(event);
  const loaded = cut ? Fold.load(JSON.parse(JSON.stringify(prefix.view()))) : prefix;
  for (const event of events.slice(cut)) loaded.apply(event);
  console.log(JSON.stringify({ whole: whole.view(), loaded: loaded.view(), skipped: whole.skipped, idle: whole.idle }));
}
