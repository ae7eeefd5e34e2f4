//! Metrics as Prometheus reads them.

use std::collections::BTreeMap;

use super::client::Client;

/// The metrics of one process at one time.
#[derive(Debug)]
pub(crate) struct Scrape {
    /// The kind of each metric: counter, gauge or histogram.
    pub(crate) kinds: BTreeMap<String, String>,
    /// The value of each series: the text before the value is the key.
    pub(crate) values: BTreeMap<String, String>,
}

impl Scrape {
    /// Scrapes a process.
    pub(crate) async fn of(client: &Client) -> Self {
        let answer = client.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let kind = answer.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
        Self::parse(&answer.body)
    }

    fn parse(text: &str) -> Self {
        let mut scrape = Self {
            kinds: BTreeMap::new(),
            values: BTreeMap::new(),
        };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a kind");
                scrape.kinds.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a series and its value");
                scrape.values.insert(series.to_owned(), value.to_owned());
            }
        }
        scrape
    }

    /// The value of a series that must be present, a whole number: `name{label="value",..}`.
    #[track_caller]
    pub(crate) fn count(&self, series: &str) -> u64 {
        let value = self.values.get(series);
        let value = value.unwrap_or_else(|| panic!("no {series} in {:#?}", self.values));
        value
            .parse()
            .unwrap_or_else(|_| panic!("{series} is {value}"))
    }

    /// Whether a name exists here: as a metric, or as a part of a histogram.
    pub(crate) fn has(&self, name: &str) -> bool {
        let of_histogram = ["_bucket", "_sum", "_count"].iter().any(|part| {
            name.strip_suffix(part)
                .and_then(|base| self.kinds.get(base))
                .is_some_and(|kind| kind == "histogram")
        });
        of_histogram || self.kinds.get(name).is_some_and(|kind| kind != "histogram")
    }
}
