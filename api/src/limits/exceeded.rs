//! Which limit a request exceeds, and the headers that say so.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use shared::service::telemetry::metrics::{Counter, Registry};

/// The headers of draft-ietf-httpapi-ratelimit-headers.
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// That of a key, or of the subject of a token.
    Key,
    /// That of a tenant.
    Tenant,
    /// That of a contract.
    Contract,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Resource {
    /// Calls that begin.
    Calls,
    /// Calls that wait or run.
    InFlight,
    /// The processor time of calls.
    Cpu,
}

/// A limit that a request exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    pub(crate) owner: Owner,
    pub(crate) resource: Resource,
    /// In the unit of the setting.
    pub(crate) limit: u64,
    /// When to try again.
    pub(crate) retry_after: Duration,
}

impl Owner {
    pub(crate) const ALL: [Self; 3] = [Self::Key, Self::Tenant, Self::Contract];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Tenant => "tenant",
            Self::Contract => "contract",
        }
    }
}

impl Resource {
    pub(crate) const ALL: [Self; 3] = [Self::Calls, Self::InFlight, Self::Cpu];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::InFlight => "in_flight",
            Self::Cpu => "cpu",
        }
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, limit, .. } = self;
        let owner = owner.name();
        match self.resource {
            Resource::Calls => {
                write!(f, "The {owner} may begin {limit} calls a second. ")
            }
            Resource::InFlight => {
                write!(f, "The {owner} may have {limit} calls in flight. ")
            }
            Resource::Cpu => write!(
                f,
                "The calls of the {owner} may use {limit} ms of processor time a minute. "
            ),
        }?;
        f.write_str("Try again later")
    }
}

impl Exceeded {
    /// The seconds of `Retry-After`.
    pub(crate) fn seconds(&self) -> u64 {
        let whole = self.retry_after.as_secs();
        whole
            .saturating_add(u64::from(self.retry_after.subsec_nanos() > 0))
            .max(1)
    }

    /// `RateLimit` and `RateLimit-Policy`: nothing is left of the policy until then.
    pub(crate) fn headers(&self) -> [(HeaderName, HeaderValue); 2] {
        let name = format!("{}-{}", self.owner.name(), self.resource.name());
        let window = match self.resource {
            Resource::Calls => ";w=1",
            Resource::Cpu => ";w=60;qu=\"cpu-milliseconds\"",
            Resource::InFlight => ";qu=\"concurrent-requests\"",
        };
        let state = format!("\"{name}\";r=0;t={}", self.seconds());
        let policy = format!("\"{name}\";q={}{window}", self.limit);
        let value = |text: String| {
            HeaderValue::try_from(text).expect("names and digits are a header's value")
        };
        [
            (RATE_LIMIT, value(state)),
            (RATE_LIMIT_POLICY, value(policy)),
        ]
    }
}

/// How many calls each limit has refused.
#[derive(Debug)]
pub(crate) struct Refusals(HashMap<(Owner, Resource), Counter>);

impl Refusals {
    pub(crate) fn new(registry: &Registry) -> Self {
        let counter = |owner: Owner, resource: Resource| {
            let counter = registry.counter(
                "execution_api_rate_limited_total",
                "Calls that a limit of their key, tenant or contract refused.",
                &[("by", owner.name()), ("limit", resource.name())],
            );
            ((owner, resource), counter)
        };
        let owners = Owner::ALL.into_iter();
        let counters = owners.flat_map(|owner| Resource::ALL.map(|of| counter(owner, of)));
        Self(counters.collect())
    }

    pub(crate) fn count(&self, exceeded: &Exceeded) {
        if let Some(counter) = self.0.get(&(exceeded.owner, exceeded.resource)) {
            counter.increment(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_name_the_limit() {
        let exceeded = Exceeded {
            owner: Owner::Key,
            resource: Resource::Calls,
            limit: 100,
            retry_after: Duration::from_millis(1200),
        };
        let [state, policy] = exceeded.headers().map(|(_, value)| value);
        assert_eq!(
            (state, policy),
            (
                HeaderValue::from_static("\"key-calls\";r=0;t=2"),
                HeaderValue::from_static("\"key-calls\";q=100;w=1"),
            )
        );
        assert_eq!(
            Exceeded {
                retry_after: Duration::ZERO,
                ..exceeded
            }
            .seconds(),
            1
        );
        assert!(exceeded.to_string().contains("100 calls a second"));
    }
}
