import { ed25519 } from "@noble/curves/ed25519.js";
import { secp256k1 } from "@noble/curves/secp256k1.js";

const key = new Uint8Array(32).fill(7);
const message = new Uint8Array(32).fill(9);

export const init = () => ({
  run: () => {
    const signed = ed25519.sign(message, key);
    const point = secp256k1.getPublicKey(key);
    return [
      Array.from(signed),
      ed25519.verify(signed, message, ed25519.getPublicKey(key)),
      Array.from(point),
      secp256k1.verify(secp256k1.sign(message, key), message, point),
    ];
  },
});
