//! The name of the farm, and whether Redis still has its data.

use uuid::Uuid;

use super::{Queue, QueueError};

/// What Redis stores about the farm itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farm {
    /// Chosen at random by the first process that reads it. What workers own outside Redis carries
    /// it, so that farms on the same machine do not touch each other's containers.
    pub name: String,
    /// Random, and created together with the data. A different value than before means that Redis
    /// has lost its data.
    pub data: String,
}

impl Farm {
    fn parse(text: &str) -> Self {
        let (name, data) = text.split_once('/').unwrap_or((text, ""));
        Self {
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }
}

impl Queue {
    /// Reads the farm's entry. Creates it only if it is missing. If Redis has lost its data, the
    /// farm keeps the name that was `known` before.
    pub async fn farm(&self, known: Option<&Farm>) -> Result<Farm, QueueError> {
        let key = self.keys().farm();
        let mut connection = self.pooled().await?;
        let found: Option<String> = redis::cmd("GET")
            .arg(&key)
            .query_async(&mut connection)
            .await?;
        if let Some(text) = found {
            return Ok(Farm::parse(&text));
        }
        let random = || Uuid::new_v4().simple().to_string();
        let name = known.map_or_else(random, |farm| farm.name.clone());
        let (_, text): (bool, String) = redis::pipe()
            .cmd("SETNX")
            .arg(&key)
            .arg(format!("{name}/{}", random()))
            .cmd("GET")
            .arg(&key)
            .query_async(&mut connection)
            .await?;
        Ok(Farm::parse(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_written_by_an_older_version_is_accepted() {
        let known = |text: &str| {
            let Farm { name, data } = Farm::parse(text);
            (name, data)
        };
        assert_eq!(known("abc/def"), ("abc".to_owned(), "def".to_owned()));
        assert_eq!(known("abc"), ("abc".to_owned(), String::new()));
    }
}
