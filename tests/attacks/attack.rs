//! What a case is: data. How one is run is [`crate::arena`]'s business, what came of it
//! [`crate::report`]'s.

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

/// What must be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expect {
    /// 200 and this JSON.
    Says(&'static str),
    /// 200 and anything but this JSON.
    SaysNot(&'static str),
    /// 200 and a number from 1 to less than this.
    Below(u64),
    /// A failure with this status and code.
    Fails(u16, &'static str),
    /// Any of these.
    Any(&'static [Expect]),
}

/// How it is seen that the attack would be noticed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Control {
    /// The same attack on a worker without its layers is answered so.
    Without(Expect),
    /// The same attack, after this code in the same page has planted what it looks for.
    Planted(&'static str, Expect),
    /// The case shows by itself that its means are effective.
    Inherent,
    /// Another case is the control of this one, too.
    Elsewhere(&'static str),
}

impl Expect {
    /// What is wrong with the answer, if anything is.
    pub(crate) fn complaint(&self, answer: &Answer) -> Option<String> {
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

/// A contract with the method `attack` and one that tells that it is well.
pub(crate) fn contract(code: &str) -> String {
    format!("{{ ping: () => 'pong', attack: async (a) => {{ {code} }} }}")
}
