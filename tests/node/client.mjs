// What a client in another language does with a session, with the stock client of NATS and broker/PROTOCOL.md alone.
//
//   node client.mjs durable STREAM NAME COUNT '{"filter_subjects": [...], "deliver_policy": ...}'
//   node client.mjs ordered STREAM SEQUENCE COUNT FILTER
//   node client.mjs live SUBJECT COUNT
//
// Prints a line of JSON per message and ends after COUNT; `ready` on standard error once it listens.
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";

const [mode, ...args] = process.argv.slice(2);
const nc = await connect({ servers: process.env.NATS_URL, inboxPrefix: "_INBOX.node" });

function print(sequence, subject, payload) {
  console.log(JSON.stringify({ sequence, subject, event: JSON.parse(payload) }));
}

async function take(messages, count, done = () => {}) {
  if (count === 0) return;
  for await (const message of messages) {
    print(message.seq, message.subject, message.string());
    await done(message);
    if (--count === 0) break;
  }
}

const modes = {
  // A durable consumer: made if it is missing, bound if it is there; acknowledged one by one.
  async durable(stream, name, count, config) {
    const jsm = await jetstreamManager(nc);
    await jsm.consumers.add(stream, { durable_name: name, ack_policy: AckPolicy.Explicit, ...JSON.parse(config) });
    const consumer = await jetstream(nc).consumers.get(stream, name);
    console.error("ready");
    // No more than it wants: what is taken and not acknowledged comes again late, behind what is newer.
    const messages = await consumer.fetch({ max_messages: Number(count), expires: 20_000 });
    await take(messages, Number(count), (message) => message.ackAck());
  },

  // An ordered read from a sequence: nothing is kept at the broker.
  async ordered(stream, sequence, count, filter) {
    const consumer = await jetstream(nc).consumers.get(stream, {
      filter_subjects: filter, deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: Number(sequence),
    });
    console.error("ready");
    await take(await consumer.consume(), Number(count));
  },

  // The live tail; the last value of a header is the broker's.
  async live(subject, count) {
    const messages = nc.subscribe(subject, { max: Number(count) });
    await nc.flush();
    console.error("ready");
    for await (const message of messages) {
      const stored = message.headers.last("Nats-Subject");
      if (message.subject !== `live.${stored}`) continue;
      print(Number(message.headers.last("Nats-Sequence")), stored, message.string());
    }
  },
};

await modes[mode](...args);
await nc.close();
