/** SHA-256 without waiting: run ids are derived from it in the middle of folding, where WebCrypto cannot be asked. */
/** Return the digest of a text as hexadecimal digits. */
export declare function sha256(text: string): string;
