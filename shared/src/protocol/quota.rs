//! What a key, a tenant or a contract may use of the farm.

use serde::{Deserialize, Serialize};

/// Limits of calls. What is missing is not limited.
///
/// ```
/// use shared::protocol::quota::Quota;
///
/// let quota: Quota = serde_json::from_str(r#"{"callsPerSecond": 100}"#)?;
/// assert_eq!(quota.calls_per_second, Some(100));
/// assert_eq!(quota.cpu_ms_per_minute, None);
/// # Ok::<_, serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quota {
    /// How many calls may begin in a second. As many may begin at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub calls_per_second: Option<u32>,
    /// How many calls may wait or run at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1_000_000))]
    pub calls_in_flight: Option<u32>,
    /// How many milliseconds of processor time calls may use in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 10_000_000))]
    pub cpu_ms_per_minute: Option<u32>,
}

impl Quota {
    /// The highest number of calls, in a second or in flight.
    pub const MOST_CALLS: u32 = 1_000_000;

    /// The highest processor time in a minute: that of 166 cores.
    pub const MOST_CPU_MS: u32 = 10_000_000;

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The name of a limit that is 0 or too high, and the highest value that it may have.
    pub fn invalid(&self) -> Option<(&'static str, u32)> {
        let all = [
            ("callsPerSecond", self.calls_per_second, Self::MOST_CALLS),
            ("callsInFlight", self.calls_in_flight, Self::MOST_CALLS),
            ("cpuMsPerMinute", self.cpu_ms_per_minute, Self::MOST_CPU_MS),
        ];
        let wrong = all
            .into_iter()
            .find(|(_, value, most)| value.is_some_and(|value| !(1..=*most).contains(&value)));
        wrong.map(|(name, _, most)| (name, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_neither_0_nor_endless() {
        let quota = |text: &str| serde_json::from_str::<Quota>(text).unwrap();
        assert_eq!(quota("{}").invalid(), None);
        assert_eq!(quota(r#"{"callsInFlight": 1}"#).invalid(), None);
        let none = quota(r#"{"callsPerSecond": 0}"#);
        assert_eq!(none.invalid(), Some(("callsPerSecond", 1_000_000)));
        let many = quota(r#"{"cpuMsPerMinute": 10000001}"#);
        assert_eq!(many.invalid(), Some(("cpuMsPerMinute", 10_000_000)));
        assert!(serde_json::from_str::<Quota>(r#"{"calls": 1}"#).is_err());
    }
}
