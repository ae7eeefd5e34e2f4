//! The description of a case, as data. [`crate::attack_farm`] runs cases, and [`crate::report`]
//! holds their results.

use serde_json::Value;

use crate::support::client::Answer;

/// One attack from within a JavaScript contract.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attack {
    /// The row of the catalogue.
    pub(crate) row: &'static str,
    pub(crate) name: &'static str,
    /// The body of the async method `attack(a)`.
    pub(crate) code: &'static str,
    pub(crate) expect: Expect,
    pub(crate) control: Control,
}

/// The expected answer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    /// 200 and this JSON.
    Says(&'static str),
    /// 200 and any other JSON than this.
    SaysNot(&'static str),
    /// 200 and a number from 1 to less than this.
    Below(u64),
    /// A failure with this status and code.
    Fails(u16, &'static str),
    /// Any of these.
    Any(&'static [Expect]),
}

/// How the case shows that a successful attack would be noticed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Control {
    /// The same attack on a worker without its layers is answered so.
    Without(Expect),
    /// The same attack, after this code in the same page has planted what it looks for.
    Planted(&'static str, Expect),
    /// The case itself shows that its method works.
    Inherent,
    /// Another case is also the control of this one.
    Elsewhere(&'static str),
}

impl Expect {
    /// The difference between the expected and the actual answer, if any.
    pub(crate) fn mismatch(&self, answer: &Answer) -> Option<String> {
        let right = self.is_met(answer);
        (!right).then(|| format!("expected {self:?}, got {}", shown(answer)))
    }

    fn is_met(&self, answer: &Answer) -> bool {
        match self {
            Self::Says(json) => answer.status == 200 && answer.data() == parsed(json),
            Self::SaysNot(json) => answer.status == 200 && answer.data() != parsed(json),
            Self::Below(end) => {
                answer.status == 200
                    && answer
                        .data()
                        .as_u64()
                        .is_some_and(|number| (1..*end).contains(&number))
            }
            Self::Fails(status, code) => answer.status == *status && answer.json()["code"] == *code,
            Self::Any(all) => all.iter().any(|expect| expect.is_met(answer)),
        }
    }
}

fn parsed(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("the case itself: {json}: {error}"))
}

/// An answer in one line.
pub(crate) fn shown(answer: &Answer) -> String {
    let body = &answer.body;
    let end = body.floor_char_boundary(200);
    format!("{} {}", answer.status, body[..end].replace('\n', " "))
}

/// A contract with the method `attack` and a method `ping`.
pub(crate) fn contract(code: &str) -> String {
    format!("{{ ping: () => 'pong', attack: async (a) => {{ {code} }} }}")
}
