//! As much of Chromium's dialect of CBOR as the messages need: every map is in an envelope that
//! says how long it is.

use serde_json::Value;

/// How an envelope begins; four bytes with its length follow.
pub(super) const ENVELOPE: [u8; 3] = [0xd8, 0x18, 0x5a];
/// The size of an envelope's head, in bytes.
pub(super) const HEAD: usize = ENVELOPE.len() + 4;

const UNSIGNED: u8 = 0;
const TEXT: u8 = 3;
const LIST: u8 = 0x9f;
const MAP: u8 = 0xbf;
const END: u8 = 0xff;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;

/// A message.
pub(super) fn encode(message: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(message, &mut bytes);
    bytes
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Bool(value) => out.push(if *value { TRUE } else { FALSE }),
        Value::Number(number) => {
            let number = number
                .as_u64()
                .and_then(|number| u32::try_from(number).ok());
            head(UNSIGNED, number.expect("a message has small numbers"), out);
        }
        Value::String(text) => write_text(text, out),
        Value::Array(list) => in_envelope(out, |out| {
            out.push(LIST);
            for value in list {
                write(value, out);
            }
        }),
        Value::Object(map) => in_envelope(out, |out| {
            out.push(MAP);
            for (key, value) in map {
                write_text(key, out);
                write(value, out);
            }
        }),
        Value::Null => unreachable!("no message has one"),
    }
}

fn in_envelope(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    out.extend(ENVELOPE);
    let start = out.len();
    out.extend([0; 4]);
    content(out);
    out.push(END);
    let length = u32::try_from(out.len() - start - 4).expect("a message is short");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    let length = u32::try_from(text.len()).expect("a message is short");
    head(TEXT, length, out);
    out.extend(text.as_bytes());
}

fn head(kind: u8, number: u32, out: &mut Vec<u8>) {
    let kind = kind << 5;
    match number.to_be_bytes() {
        [0, 0, 0, small @ 0..0x18] => out.push(kind | small),
        [0, 0, 0, byte] => out.extend([kind | 0x18, byte]),
        [0, 0, high, low] => out.extend([kind | 0x19, high, low]),
        [a, b, c, d] => out.extend([kind | 0x1a, a, b, c, d]),
    }
}

/// How a reply to the message with this id begins, after the envelope's head.
pub(super) fn reply_to(id: u32) -> Vec<u8> {
    let mut begin = vec![MAP];
    write_text("id", &mut begin);
    head(UNSIGNED, id, &mut begin);
    begin
}

/// The text under the last such key of a reply.
pub(super) fn text_of(reply: &[u8], key: &str) -> String {
    let mut name = Vec::new();
    write_text(key, &mut name);
    let found = reply.windows(name.len()).rposition(|bytes| bytes == name);
    let rest = found.map(|at| &reply[at + name.len()..]);
    let text = rest.and_then(|rest| match rest {
        [0x60..0x78, ..] => rest.get(1..1 + usize::from(rest[0] - 0x60)),
        [0x78, length, text @ ..] => text.get(..usize::from(*length)),
        _ => None,
    });
    let text = text.unwrap_or_else(|| panic!("no {key}: {}", reply.escape_ascii()));
    String::from_utf8(text.to_vec()).expect("a text")
}
