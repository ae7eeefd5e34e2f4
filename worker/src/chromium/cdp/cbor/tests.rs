//! The dialect against bytes as Chromium writes them, against itself, and against broken bytes.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::CborError;
use super::decode::{entries, first_number, from_slice, from_slice_cut};
use super::encode::to_vec;

/// `{"id": 1, "result": {"value": "é"}, "sessionId": "S"}` with the text in UTF-16.
const REPLY: &[u8] =
    b"\xd8\x18\x5a\x00\x00\x00\x2b\xbf\x62id\x01\x66result\xd8\x18\x5a\x00\x00\x00\x0b\
    \xbf\x65value\x42\xe9\x00\xff\x69sessionId\x61S\xff";

#[test]
fn a_map_is_an_envelope_round_entries_and_a_stop() {
    let bytes = to_vec(&json!({"a": [1, -2, true, null], "b": 0.5})).unwrap();
    let expected = b"\xd8\x18\x5a\x00\x00\x00\x15\xbf\x61a\x9f\x01\x21\xf5\xf6\xff\
        \x61b\xfb\x3f\xe0\x00\x00\x00\x00\x00\x00\xff";
    assert_eq!(bytes, expected);
}

#[test]
fn a_message_is_read_without_its_maps() {
    let mut seen = Vec::new();
    entries(REPLY, |key, value| {
        seen.push((key.to_owned(), value.0.len()));
        Ok(())
    })
    .unwrap();
    let expected = [("id", 1), ("result", 18), ("sessionId", 2)];
    assert_eq!(seen, expected.map(|(key, size)| (key.to_owned(), size)));
    assert_eq!(first_number(&REPLY[..20]), Some(1));
    assert_eq!(first_number(&REPLY[..10]), None);
    let whole: Value = from_slice(REPLY).unwrap();
    let expected = json!({"id": 1, "result": {"value": "é"}, "sessionId": "S"});
    assert_eq!(whole, expected);
}

#[test]
fn utf_16_is_read_and_a_lone_surrogate_replaced() {
    let read = |bytes: &[u8]| from_slice::<String>(bytes);
    assert_eq!(read(b"\x46\x3d\xd8\x00\xde\x61\x00").unwrap(), "\u{1f600}a");
    assert_eq!(read(b"\x44\x00\xd8\x61\x00").unwrap(), "\u{fffd}a");
    assert_eq!(read(b"\x43\x00\xd8\x61"), Err(CborError::Text));
}

#[test]
fn binary_data_is_base64() {
    assert_eq!(
        from_slice::<String>(b"\xd6\x43\x01\x02\x03").unwrap(),
        "AQID"
    );
    assert!(from_slice::<String>(b"\xd6\xd6\xd6").is_err());
}

#[test]
fn a_text_over_the_limit_is_cut() {
    let cut = |bytes: &[u8]| from_slice_cut::<String>(bytes, 3).unwrap();
    assert_eq!(cut(b"\x63abc"), "abc");
    assert_eq!(cut(b"\x65abcde"), "abc");
    assert_eq!(cut(b"\x64ab\xc3\xa9"), "ab\u{fffd}");
    assert_eq!(cut(b"\x48a\x00b\x00c\x00d\x00"), "abc");
}

#[test]
fn broken_messages_are_refused() {
    let read = |bytes: &[u8]| from_slice::<Value>(bytes).unwrap_err();
    assert_eq!(read(b""), CborError::CutOff);
    assert_eq!(read(b"\x65abc"), CborError::CutOff);
    assert_eq!(
        read(b"\x7b\xff\xff\xff\xff\xff\xff\xff\xff"),
        CborError::CutOff
    );
    assert_eq!(read(b"\x61\xff"), CborError::Text);
    assert_eq!(read(b"\x01\x01"), CborError::Trailing(1));
    assert_eq!(read(b"\xa0"), CborError::Unexpected(0xa0));
    assert_eq!(
        read(b"\x1b\x00\x00\x00\x01\x00\x00\x00\x00"),
        CborError::Unexpected(0x1b)
    );
    assert_eq!(read(&[0x9f; 1000]), CborError::TooDeep);
    assert!(entries(&REPLY[..40], |_, _| Ok(())).is_err());
    assert!(entries(b"\xd8\x18\x5a\x00\x00\x00\x02\xbf\xff\x00", |_, _| Ok(())).is_err());
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(value in values()) {
        let bytes = to_vec(&value).unwrap();
        prop_assert_eq!(from_slice::<Value>(&bytes).unwrap(), value);
    }

    #[test]
    fn no_bytes_cause_a_panic(bytes: Vec<u8>, at in 0..REPLY.len(), byte: u8) {
        _ = from_slice::<Value>(&bytes);
        _ = entries(&bytes, |_, _| Ok(()));
        let mut reply = REPLY.to_vec();
        reply[at] = byte;
        _ = from_slice::<Value>(&reply);
        _ = entries(&reply, |_, _| Ok(()));
        _ = first_number(&reply);
    }
}
