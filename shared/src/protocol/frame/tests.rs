use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::protocol::job::{
    Argument, ContractSpec, EngineKind, Execute, Inspect, Limits, Load, Unload,
};
use crate::protocol::reply::FailureCode;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        "\\PC{0,20}".prop_map(|s| serde_json::to_string(&s).unwrap()),
        // Valid JSON that serde_json::Value rejects must survive as well.
        Just(r#""\ud800""#.to_owned()),
        Just("1e999".to_owned()),
        Just(r#"{"a":1,"a":2,"__proto__":null}"#.to_owned()),
        Just(format!("{}{}", "[".repeat(1000), "]".repeat(1000))),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(", "))),
            inner.prop_map(|v| format!("{{ \"k\" :\n {v} }}")),
        ]
    })
}

fn job() -> impl Strategy<Value = Job> {
    let address = || "[a-zA-Z0-9._:-]{1,128}".prop_map(|a| a.parse().unwrap());
    let argument = prop_oneof![
        Just(Argument::None),
        json().prop_map(|text| Argument::Json(raw(&text))),
        "\\PC{0,40}".prop_map(Argument::Stored),
    ];
    prop_oneof![
        (address(), "\\PC{0,40}", argument, any::<Option<String>>()).prop_map(
            |(address, method, argument, schemas)| {
                Job::Execute(Execute {
                    address,
                    method,
                    argument,
                    schemas,
                    logs: None,
                })
            }
        ),
        (address(), "[0-9a-f]{64}", any::<Option<u32>>()).prop_map(
            |(address, digest, timeout_ms)| {
                let limits = Limits {
                    timeout_ms,
                    ..Limits::default()
                };
                let spec = ContractSpec {
                    engine: EngineKind::Docker,
                    digest,
                    limits,
                    idempotent: true,
                    replicas: 2,
                    keep_logs: false,
                };
                Job::Load(Load {
                    address,
                    spec,
                    seen: None,
                })
            }
        ),
        address().prop_map(|address| Job::Unload(Unload { address })),
        prop::option::of(address()).prop_map(|address| Job::Inspect(Inspect {
            address,
            top: None,
            follow_ms: None
        })),
    ]
}

fn envelope() -> impl Strategy<Value = Envelope> {
    (
        any::<u64>(),
        any::<u64>(),
        any::<u32>(),
        prop::option::of("\\PC{0,60}"),
        prop::option::of("\\PC{0,60}"),
        job(),
    )
        .prop_map(|(id, deadline, attempt, trace, request, job)| Envelope {
            id: JobId(id),
            deadline,
            attempt,
            trace,
            request,
            job,
        })
}

proptest! {
    #[test]
    fn any_job_survives_encoding(jobs in prop::collection::vec(envelope(), 0..6), to_api: bool) {
        let api = to_api.then(ApiId::random);
        let frame = unpack_jobs(&pack_jobs(api, jobs.iter().map(encode_item))).unwrap();
        prop_assert_eq!(frame.api, api);
        // Raw payloads do not implement equality, so the texts are compared.
        let text = |jobs: &[Envelope]| jobs.iter().map(encode_item).collect::<Vec<_>>();
        prop_assert_eq!(text(&frame.jobs), text(&jobs));
    }

    #[test]
    fn any_result_survives_encoding(result in json(), id: u64, generation: Option<u64>) {
        let reply = Reply {
            id: JobId(id),
            generation,
            ran_us: Some(12),
            cpu_us: Some(7),
            outcome: Ok(Output::Result(raw(&result))),
        };
        let worker = WorkerId::random();
        let frame = unpack_replies(&pack_replies(worker, [encode_item(&reply)])).unwrap();
        prop_assert_eq!(frame.worker, worker);
        prop_assert_eq!(frame.replies[0].id, reply.id);
        let Ok(Output::Result(travelled)) = &frame.replies[0].outcome else { panic!() };
        prop_assert_eq!(travelled.get(), result.trim());
    }

    #[test]
    fn no_input_makes_the_parser_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = unpack_jobs(&text);
        let _ = unpack_replies(&text);
    }
}

/// Damage to a byte string: bytes are changed, removed, inserted or repeated, or the rest is cut
/// off.
#[derive(Debug, Clone)]
enum Damage {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Double(prop::sample::Index),
    Cut(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    // Bytes with a meaning in JSON break more than random bytes.
    let byte = || {
        prop_oneof![
            any::<u8>(),
            prop::sample::select(br#"{}[]",:\0-9enu"#.to_vec())
        ]
    };
    prop_oneof![
        (at(), byte()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        at().prop_map(Damage::Remove),
        (at(), prop::collection::vec(byte(), 1..5)).prop_map(|(at, text)| Damage::Insert(at, text)),
        at().prop_map(Damage::Double),
        at().prop_map(Damage::Cut),
    ]
}

fn damaged(mut text: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        let place = |at: &prop::sample::Index| at.index(text.len().max(1));
        match damage {
            _ if text.is_empty() => {}
            Damage::Set(at, byte) => {
                let at = place(at);
                text[at] = *byte;
            }
            Damage::Remove(at) => {
                let at = place(at);
                text.remove(at);
            }
            Damage::Insert(at, more) => {
                let at = place(at);
                text.splice(at..at, more.iter().copied());
            }
            Damage::Double(at) => {
                let at = place(at);
                text.extend_from_within(at..);
            }
            Damage::Cut(at) => {
                let at = place(at);
                text.truncate(at);
            }
        }
    }
    text
}

proptest! {
    // An almost correct frame reaches deeper into the parser than noise. Everything that was parsed
    // from it can be encoded and parsed again.
    #[test]
    fn a_damaged_frame_of_jobs_is_parsed_completely_or_rejected(
        jobs in prop::collection::vec(envelope(), 1..4),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let frame = pack_jobs(Some(ApiId::random()), jobs.iter().map(encode_item));
        if let Ok(read) = unpack_jobs(&damaged(frame, &damages)) {
            let text: Vec<_> = read.jobs.iter().map(encode_item).collect();
            let again = unpack_jobs(&pack_jobs(read.api, text.clone())).unwrap();
            prop_assert_eq!(again.jobs.iter().map(encode_item).collect::<Vec<_>>(), text);
        }
    }

    #[test]
    fn a_damaged_frame_of_replies_is_parsed_completely_or_rejected(
        result in json(),
        damages in prop::collection::vec(damage(), 1..4),
    ) {
        let outcome = Ok(Output::Result(raw(&result)));
        let reply = Reply { id: JobId(7), generation: Some(1), ran_us: None, cpu_us: Some(9), outcome };
        let failure = Failure::started(FailureCode::ExecutionFailed, "Error: \u{2028}");
        let failed = Reply { id: JobId(8), generation: None, ran_us: Some(1), cpu_us: None, outcome: Err(failure) };
        let worker = WorkerId::random();
        let frame = pack_replies(worker, [encode_item(&reply), encode_item(&failed)]);
        if let Ok(read) = unpack_replies(&damaged(frame, &damages)) {
            let text: Vec<_> = read.replies.iter().map(encode_item).collect();
            let again = unpack_replies(&pack_replies(read.worker, text.clone())).unwrap();
            prop_assert_eq!(again.replies.iter().map(encode_item).collect::<Vec<_>>(), text);
        }
    }
}

#[test]
fn a_failure_survives_encoding() {
    let failure = Failure::started(FailureCode::ExecutionFailed, "Error: \u{2028} no\n");
    let reply = Reply {
        id: JobId(1),
        generation: None,
        ran_us: None,
        cpu_us: None,
        outcome: Err(failure.clone()),
    };
    let frame = unpack_replies(&pack_replies(WorkerId::random(), [encode_item(&reply)])).unwrap();
    assert_eq!(frame.replies[0].outcome.as_ref().unwrap_err(), &failure);
}

#[test]
fn a_frame_of_another_version_names_its_api_and_jobs() {
    let api = ApiId::random();
    let text = format!(r#"{{"v":2,"api":"{api}","jobs":[{{"id":7,"new":1}},{{"id":8}}]}}"#);
    match unpack_jobs(text.as_bytes()).unwrap_err() {
        FrameError::UnsupportedVersion {
            version: 2,
            api: Some(sender),
            jobs,
        } => {
            assert_eq!(sender, api);
            assert_eq!(jobs, [JobId(7), JobId(8)]);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_full_frame_accepts_no_item() {
    assert!(
        has_room(0, 0, 10 * MAX_BYTES),
        "a single item may be larger than a frame"
    );
    assert!(!has_room(1, 10, MAX_BYTES));
    assert!(!has_room(MAX_ITEMS, 10, 1));
    assert!(has_room(MAX_ITEMS - 1, 10, 1));
}

#[test]
fn a_call_is_understood_by_versions_without_schemas() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Earlier {
        address: String,
        method: String,
        argument: Argument,
    }
    let earlier = r#"{"address":"abcd","method":"add","argument":"none"}"#;
    let mut call: Execute = serde_json::from_str(earlier).unwrap();
    assert_eq!(call.schemas, None);
    for digest in ["", "0a1b"] {
        call.schemas = Some(digest.to_owned());
        let text = serde_json::to_string(&call).unwrap();
        let read: Earlier = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), earlier);
    }
}
