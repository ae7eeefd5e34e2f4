//! The same random calls run against the scripts of the model and against the Lua scripts on a real
//! Redis. Both must answer the same and leave the same record.
//!
//! The model counts generations, Redis makes them from its clock. So the test keeps a table of the
//! pairs that belong together.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use redis_servers::Redis;
use shared::protocol::id::{ContractAddress, WorkerId};
use shared::protocol::job::{ContractSpec, EngineKind, Limits};
use shared::queue::Queue;
use shared::queue::ownership::{ChangeId, Failover, Host, LoadId, Outcome, Sandbox, Standing};
use shared::queue::references::Reference;

use crate::references::References;
use crate::rules::Rules;
use crate::script::{Answer, Contract, Generation, Id, Load, Name};

/// A quarantine that does not end within a test.
const QUARANTINE_MS: u64 = 3_600_000;

/// An executable that does not expire within a test.
const STAGED: Duration = Duration::from_mins(10);

/// Which owner and generation a call expects.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// What the record says.
    Present,
    /// What it said earlier: so many changes ago.
    Earlier(usize),
    /// Another owner.
    Other(usize),
}

/// One call of a script.
#[derive(Debug, Clone, Copy)]
enum Call {
    Claim { worker: usize, asked: Option<Name> },
    Ready(Name),
    Switch(Name),
    Raise,
    Drop,
    Quarantine,
    Orphan,
    Unload,
    Resume { worker: usize, load: Name },
    Restore { load: Name, ahead: bool },
    Keep(Name),
    Release(Name),
    Sweep,
}

fn calls() -> impl Strategy<Value = Vec<(Call, Expected)>> {
    let (worker, load) = (0..3_usize, 1..4_u8);
    let call = prop_oneof![
        4 => (worker.clone(), prop::option::of(load.clone()))
            .prop_map(|(worker, asked)| Call::Claim { worker, asked }),
        4 => load.clone().prop_map(Call::Ready),
        2 => load.clone().prop_map(Call::Switch),
        2 => Just(Call::Raise),
        2 => Just(Call::Drop),
        1 => Just(Call::Quarantine),
        2 => Just(Call::Orphan),
        1 => Just(Call::Unload),
        2 => (worker, load.clone()).prop_map(|(worker, load)| Call::Resume { worker, load }),
        2 => (load.clone(), any::<bool>())
            .prop_map(|(load, ahead)| Call::Restore { load, ahead }),
        4 => load.clone().prop_map(Call::Keep),
        2 => load.prop_map(Call::Release),
        2 => Just(Call::Sweep),
    ];
    let expected = prop_oneof![
        6 => Just(Expected::Present),
        1 => (1..4_usize).prop_map(Expected::Earlier),
        1 => (0..3_usize).prop_map(Expected::Other),
    ];
    prop::collection::vec((call, expected), 1..40)
}

/// Both sides, and what belongs together.
struct Pair {
    model: Contract,
    references: References,
    queue: Queue,
    address: ContractAddress,
    workers: [WorkerId; 3],
    loads: HashMap<Load, LoadId>,
    /// The executable of all loads.
    digest: String,
    generations: HashMap<Generation, u64>,
    /// What the record said so far.
    history: Vec<(Option<Id>, Generation)>,
}

fn id(worker: usize) -> Id {
    let process = u8::try_from(worker).expect("there are three workers");
    Id { process, epoch: 0 }
}

fn spec(load: Name) -> ContractSpec {
    ContractSpec {
        engine: EngineKind::Javascript,
        digest: format!("digest-{load}"),
        limits: Limits::default(),
        replicas: 1,
        idempotent: false,
        keep_logs: false,
    }
}

impl Pair {
    fn new(queue: Queue, number: usize) -> Self {
        let address = format!("c{number}").try_into().expect("a valid address");
        Self {
            model: Contract::default(),
            references: References::default(),
            queue,
            address,
            workers: std::array::from_fn(|_| WorkerId::random()),
            loads: HashMap::new(),
            digest: format!("digest-of-{number}"),
            generations: HashMap::from([(0, 0)]),
            history: vec![(None, 0)],
        }
    }

    fn expected(&self, expected: Expected) -> (Option<Id>, Generation) {
        let (owner, generation) = self.model.at();
        match expected {
            Expected::Present => (owner, generation),
            Expected::Earlier(ago) => {
                let index = self.history.len().saturating_sub(ago + 1);
                self.history[index]
            }
            Expected::Other(worker) => (Some(id(worker)), generation),
        }
    }

    fn real(&self, (owner, generation): (Option<Id>, Generation)) -> Standing {
        Standing {
            owner: owner.map(|owner| self.workers[usize::from(owner.process)]),
            generation: self.generations[&generation],
        }
    }

    /// Makes one call on both sides.
    async fn call(&mut self, call: Call, expected: Expected) {
        let expected = self.expected(expected);
        let before = self.model;
        let named = self.load(call, expected.1);
        self.name_load(call, expected.1);
        if self.call_references(call, expected.1).await {
            return self.compare(call, before).await;
        }
        let Some(answer) = self.call_model(call, expected) else {
            return;
        };
        let load = named.map(|load| self.loads[&load].clone());
        let real = self
            .call_real(call, self.real(expected), &load.unwrap_or_default())
            .await;
        let answer = match (call, self.model.record) {
            // A contract whose first load was running is gone: nothing is to be done about it.
            (Call::Orphan, None) => Answer::No,
            _ => answer,
        };
        match (answer, real) {
            (Answer::Done(generation), Some(real)) => {
                let known = *self.generations.entry(generation).or_insert(real);
                // An orphan's answer has no generation.
                assert!(real == 0 || known == real, "{call:?} of {before:?}");
            }
            (Answer::No, None) => {}
            (answer, real) => panic!("{call:?} {expected:?} of {before:?}: {answer:?}, {real:?}"),
        }
        self.compare(call, before).await;
        self.history.push(self.model.at());
    }

    /// The load that a call names: the one that began in this generation, or that is recorded.
    fn load(&self, call: Call, begun: Generation) -> Option<Load> {
        let recorded = self.model.record.and_then(|record| record.load);
        match call {
            Call::Ready(name) | Call::Switch(name) | Call::Keep(name) => Some(Load { name, begun }),
            Call::Resume { load: name, .. }
            | Call::Restore { load: name, .. }
            | Call::Release(name) => {
                let recorded = recorded.filter(|load| load.name == name);
                Some(recorded.unwrap_or(Load { name, begun }))
            }
            _ => None,
        }
    }

    fn name_load(&mut self, call: Call, begun: Generation) {
        if let Some(load) = self.load(call, begun) {
            let generation = self.generations[&begun];
            let id = || LoadId::new(generation);
            self.loads.entry(load).or_insert_with(id);
        }
    }

    /// A call that concerns references only. They are of another slot.
    async fn call_references(&mut self, call: Call, begun: Generation) -> bool {
        let (rules, queue, digest) = (Rules::ALL, &self.queue, &self.digest);
        let load = self.load(call, begun);
        let reference = load.map(|load| Reference::new(&self.address, &self.loads[&load]));
        match (call, load, reference) {
            (Call::Keep(_), Some(load), Some(reference)) => {
                self.references.keep(rules, load);
                let kept = queue.keep_blob(digest, &reference).await;
                assert!(kept.expect("Redis answers"));
            }
            (Call::Release(_), Some(load), Some(reference)) => {
                self.references.release(rules, load);
                let released = queue.release_blob(digest, &reference).await;
                released.expect("Redis answers");
            }
            (Call::Sweep, ..) => {
                while let Some(stale) = self.references.stale(rules, &self.model) {
                    self.references.release(rules, stale);
                }
                let is_used = queue.sweep_blob(digest).await.expect("Redis answers");
                assert!(is_used, "it is not removed at once");
            }
            _ => return false,
        }
        true
    }

    /// None: the caller of this script must not make this call.
    fn call_model(
        &mut self,
        call: Call,
        (owner, generation): (Option<Id>, Generation),
    ) -> Option<Answer> {
        let load = self.load(call, generation).unwrap_or_default();
        let (rules, model) = (Rules::ALL, &mut self.model);
        Some(match (call, owner) {
            (Call::Claim { worker, asked }, _) => {
                model.claim(rules, (owner, generation), id(worker), asked)
            }
            (Call::Unload, _) => model.unload(rules, owner, generation),
            (_, None) | (Call::Keep(_) | Call::Release(_) | Call::Sweep, Some(_)) => return None,
            (Call::Ready(_), Some(owner)) => model.ready(rules, owner, generation, load),
            (Call::Switch(_), Some(owner)) => {
                // A switch that is sent again is recognised by its load.
                let is_repeated = model.record.is_some_and(|record| record.load == Some(load));
                if is_repeated {
                    return None;
                }
                model.switch(rules, owner, generation, load)
            }
            (Call::Raise, Some(owner)) => model.raise(rules, owner, generation),
            (Call::Drop, Some(owner)) => model.drop(rules, owner, generation),
            (Call::Quarantine, Some(owner)) => model.quarantine(rules, owner, generation),
            (Call::Orphan, Some(owner)) => model.orphan(rules, owner, generation),
            (Call::Resume { worker, .. }, Some(owner)) => {
                model.resume(owner, id(worker), generation, load)
            }
            (Call::Restore { ahead, .. }, Some(owner)) => {
                let generation = if ahead { self.ahead() } else { generation };
                self.model.restore(owner, generation, load)
            }
        })
    }

    /// A generation that was given, and that Redis has lost.
    fn ahead(&mut self) -> Generation {
        self.model.time += 1;
        let ahead = self.model.time;
        let latest = self.generations.values().max().copied().unwrap_or_default();
        let now = self.queue.clock().now_ms();
        self.generations.insert(ahead, latest.max(now) + 1);
        ahead
    }

    /// The generation if the script was carried out; 0 where it does not say.
    async fn call_real(&self, call: Call, expected: Standing, load: &LoadId) -> Option<u64> {
        let (queue, address) = (&self.queue, &self.address);
        let sandbox = Sandbox::default();
        let outcome = match call {
            Call::Claim { worker, asked } => {
                let asked = asked.map(spec);
                let worker = self.workers[worker];
                queue.claim(address, expected, worker, asked.as_ref()).await
            }
            Call::Ready(name) => {
                let loaded = (load, &spec(name));
                queue.record_load(address, expected, loaded, &sandbox).await
            }
            Call::Switch(name) => {
                let loaded = (load, &spec(name));
                queue.switch_load(address, expected, loaded, &sandbox).await
            }
            Call::Raise => {
                let change = ChangeId::random();
                queue.raise_generation(address, expected, &change).await
            }
            Call::Drop => queue.drop_ownership(address, expected).await,
            Call::Quarantine => queue.quarantine(address, expected, QUARANTINE_MS).await,
            Call::Unload => queue.unload(address, expected).await,
            Call::Orphan => {
                let failover = queue
                    .fail_over(address, expected, false, QUARANTINE_MS)
                    .await;
                return (failover.expect("Redis answers") != Failover::Gone).then_some(0);
            }
            Call::Resume { worker, .. } => {
                let worker = self.workers[worker];
                queue
                    .resume_ownership(address, expected, worker, load)
                    .await
            }
            Call::Restore { load: name, ahead } => {
                let generation = if ahead {
                    self.generations[&self.model.time]
                } else {
                    expected.generation
                };
                let host = Host {
                    generation,
                    load: load.clone(),
                    spec: spec(name),
                    sandbox,
                };
                let worker = expected.owner.expect("a restore names its worker");
                queue.restore_ownership(address, worker, &host).await
            }
            Call::Keep(_) | Call::Release(_) | Call::Sweep => return None,
        };
        match outcome.expect("Redis answers") {
            Outcome::Done(generation) => Some(generation),
            Outcome::Refused(_) => None,
        }
    }

    /// Both records are the same.
    async fn compare(&self, call: Call, before: Contract) {
        let found = self.queue.ownership(&self.address).await;
        let found = found.expect("Redis answers");
        let context = format!("{call:?} of {before:?} gives {:?}", self.model);
        assert_eq!(found.standing, self.real(self.model.at()), "{context}");
        let record = self.model.record;
        let load = record.and_then(|record| record.load);
        let load = load.map(|load| self.loads[&load].clone());
        assert_eq!(found.load, load, "{context}");
        let quarantined = record.is_some_and(|record| record.quarantined);
        assert_eq!(found.quarantined, quarantined, "{context}");
        let refers = |(load, id): (&Load, &LoadId)| {
            let reference = Reference::new(&self.address, id);
            (*load, (self.digest.as_str(), reference))
        };
        let (loads, references): (Vec<_>, Vec<_>) = self.loads.iter().map(refers).unzip();
        let kept = self.queue.are_blobs_kept(&references).await;
        let expected = loads
            .iter()
            .map(|load| self.references.has(Rules::ALL, *load));
        let expected: Vec<_> = expected.collect();
        assert_eq!(
            kept.expect("Redis answers"),
            expected,
            "{context}: {loads:?}"
        );
    }
}

#[test]
fn the_scripts_do_what_the_model_does() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let redis = Redis::start();
    let queue = runtime.block_on(redis.queue());
    let number = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let run = runner.run(&calls(), |calls| {
        number.set(number.get() + 1);
        let mut pair = Pair::new(queue.clone(), number.get());
        runtime.block_on(async {
            for worker in pair.workers {
                let is_new = queue.register_worker(worker).await;
                assert!(is_new.expect("Redis answers"));
            }
            let staged = queue.stage_blob(&pair.digest, b"{}", STAGED).await;
            staged.expect("Redis answers");
            for (call, expected) in calls {
                pair.call(call, expected).await;
            }
        });
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}
