//! Measures how fast frames are packed and read, which is part of each call's cost in both
//! directions. Run it with `make bench-frames`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use serde_json::value::RawValue;
use shared::protocol::frame::{
    Envelope, Item, MAX_ITEMS, Reply, encode_item, pack_jobs, pack_replies, unpack_jobs,
    unpack_replies,
};
use shared::protocol::id::{ApiId, JobId, WorkerId};
use shared::protocol::job::{Argument, Execute, Job};
use shared::protocol::reply::Output;

/// One call, a batch, and as many as a frame may hold.
const ITEMS: [usize; 3] = [1, 16, MAX_ITEMS];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    jobs(&mut criterion);
    replies(&mut criterion);
    criterion.final_summary();
}

fn jobs(criterion: &mut Criterion) {
    let api = ApiId::random();
    let job = envelope();
    let mut group = criterion.benchmark_group("jobs");
    group.bench_function("encode one", |bencher| {
        bencher.iter(|| encode_item(black_box(&job)));
    });
    for count in ITEMS {
        let items: Vec<Item> = (0..count).map(|_| encode_item(&job)).collect();
        let frame = pack_jobs(Some(api), &items);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("pack", count), &items, |bencher, items| {
            bencher.iter(|| pack_jobs(Some(api), black_box(items)));
        });
        group.bench_with_input(
            BenchmarkId::new("unpack", count),
            &frame,
            |bencher, frame| {
                bencher.iter(|| unpack_jobs(black_box(frame)).expect("it was packed here"));
            },
        );
    }
    group.finish();
}

fn replies(criterion: &mut Criterion) {
    let worker = WorkerId::random();
    let reply = Reply {
        id: JobId(u64::MAX),
        generation: Some(1),
        ran_us: Some(12),
        cpu_us: Some(7),
        outcome: Ok(Output::Result(json("3"))),
    };
    let mut group = criterion.benchmark_group("replies");
    group.bench_function("encode one", |bencher| {
        bencher.iter(|| encode_item(black_box(&reply)));
    });
    for count in ITEMS {
        let items: Vec<Item> = (0..count).map(|_| encode_item(&reply)).collect();
        let frame = pack_replies(worker, &items);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("pack", count), &items, |bencher, items| {
            bencher.iter(|| pack_replies(worker, black_box(items)));
        });
        group.bench_with_input(
            BenchmarkId::new("unpack", count),
            &frame,
            |bencher, frame| {
                bencher.iter(|| unpack_replies(black_box(frame)).expect("it was packed here"));
            },
        );
    }
    group.finish();
}

fn envelope() -> Envelope {
    Envelope {
        id: JobId(u64::MAX),
        deadline: 1_700_000_000_000,
        attempt: 1,
        trace: None,
        request: None,
        job: Job::Execute(Execute {
            address: "abcd".parse().expect("it is an address"),
            method: "add".to_owned(),
            argument: Argument::Json(json(r#"{"number1":1,"number2":2}"#)),
            schemas: None,
            logs: None,
        }),
    }
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("it is JSON")
}
