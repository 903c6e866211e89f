/** SHA-256 without waiting: run ids are derived from it in the middle of folding, where WebCrypto cannot be asked. */
const K = new Uint32Array(64);
const START = new Uint32Array(8);
function fraction(root) {
    return ((root - Math.floor(root)) * 2 ** 32) >>> 0;
}
for (let candidate = 2, count = 0; count < 64; candidate += 1) {
    let prime = true;
    for (let divisor = 2; divisor * divisor <= candidate; divisor += 1) {
        if (candidate % divisor === 0)
            prime = false;
    }
    if (!prime)
        continue;
    if (count < 8)
        START[count] = fraction(Math.sqrt(candidate));
    K[count] = fraction(Math.cbrt(candidate));
    count += 1;
}
const rotate = (value, by) => (value >>> by) | (value << (32 - by));
function padded(data) {
    const length = data.length + 9 + ((119 - (data.length % 64)) % 64);
    const block = new Uint8Array(length);
    block.set(data);
    block[data.length] = 0x80;
    const view = new DataView(block.buffer);
    view.setUint32(length - 8, Math.floor(data.length / 2 ** 29));
    view.setUint32(length - 4, data.length << 3);
    return view;
}
function mix(state, words) {
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i += 1) {
        const one = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
        const first = (h + one + ((e & f) ^ (~e & g)) + K[i] + words[i]) | 0;
        const zero = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
        const second = (zero + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, index) => {
        state[index] = (state[index] + value) | 0;
    });
}
/** Return the digest of a text as hexadecimal digits. */
export function sha256(text) {
    const view = padded(new TextEncoder().encode(text));
    const state = Uint32Array.from(START);
    const words = new Uint32Array(64);
    for (let offset = 0; offset < view.byteLength; offset += 64) {
        for (let i = 0; i < 16; i += 1)
            words[i] = view.getUint32(offset + 4 * i);
        for (let i = 16; i < 64; i += 1) {
            const early = words[i - 15];
            const late = words[i - 2];
            const zero = rotate(early, 7) ^ rotate(early, 18) ^ (early >>> 3);
            const one = rotate(late, 17) ^ rotate(late, 19) ^ (late >>> 10);
            words[i] = words[i - 16] + zero + words[i - 7] + one;
        }
        mix(state, words);
    }
    return Array.from(state, (word) => word.toString(16).padStart(8, "0")).join("");
}
