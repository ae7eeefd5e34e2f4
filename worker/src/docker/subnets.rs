//! The range of addresses out of which every contract gets a subnet.

use std::net::Ipv4Addr;
use std::str::FromStr;

/// The prefix length of a contract's network: room for the gateway, the contract, the worker.
const PREFIX: u32 = 29;

/// The maximum number of subnets that are tried for one network.
const TRIES: u32 = 256;

/// The range of addresses for the networks of contracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: u32,
    /// The number of networks in the range.
    count: u32,
}

impl Default for Range {
    /// `10.213.0.0/16`: 8192 networks in a rarely used part of the private address space.
    fn default() -> Self {
        Self {
            first: u32::from(Ipv4Addr::new(10, 213, 0, 0)),
            count: 1 << (PREFIX - 16),
        }
    }
}

impl FromStr for Range {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "must be a range such as 10.213.0.0/16, of at most 29 bits";
        let (address, bits) = text.split_once('/').ok_or(SHAPE)?;
        let address: Ipv4Addr = address.parse().map_err(|_| SHAPE)?;
        let bits: u32 = bits.parse().map_err(|_| SHAPE)?;
        if !(8..=PREFIX).contains(&bits) {
            return Err(SHAPE);
        }
        let first = u32::from(address);
        if first.trailing_zeros() < 32 - bits {
            return Err("must start with the first address of the range");
        }
        Ok(Self {
            first,
            count: 1 << (PREFIX - bits),
        })
    }
}

impl Range {
    /// Subnets to try, starting at a random one, so that workers on one daemon rarely collide.
    pub(super) fn subnets(self) -> impl Iterator<Item = String> {
        let start = rand::random_range(0..self.count);
        (0..self.count.min(TRIES)).map(move |step| {
            let index = (start + step) % self.count;
            let first = self.first + (index << (32 - PREFIX));
            format!("{}/{PREFIX}", Ipv4Addr::from(first))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_is_divided_into_subnets() {
        let range: Range = "10.9.8.0/28".parse().unwrap();
        let mut subnets: Vec<_> = range.subnets().collect();
        subnets.sort();
        assert_eq!(subnets, ["10.9.8.0/29", "10.9.8.8/29"]);
        assert_eq!("10.213.0.0/16".parse(), Ok(Range::default()));
    }

    #[test]
    fn invalid_ranges_are_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/30",
            "10.0.0.1/16",
            "10.0.0/16",
            "::/64",
            "10.0.0.0/4",
        ] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
