//! The farm's name, and whether Redis still has its data.

use uuid::Uuid;

use super::{Queue, QueueError};

/// What Redis says of the farm itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farm {
    /// Chosen at random by whoever asked first. What workers own outside of Redis carries it, so that
    /// farms that share a machine leave each other alone.
    pub name: String,
    /// Made anew with the data: another one than before means that Redis has lost it.
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
    /// Reads what Redis says of the farm. When it has lost its data, the farm keeps the name by which
    /// it was `known`.
    pub async fn farm(&self, known: Option<&Farm>) -> Result<Farm, QueueError> {
        let random = || Uuid::new_v4().simple().to_string();
        let name = known.map_or_else(random, |farm| farm.name.clone());
        let key = self.keys().farm();
        let (_, text): (bool, String) = redis::pipe()
            .cmd("SETNX")
            .arg(&key)
            .arg(format!("{name}/{}", random()))
            .cmd("GET")
            .arg(&key)
            .query_async(&mut self.pooled().await?)
            .await?;
        Ok(Farm::parse(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_an_older_program_has_written_is_one() {
        let known = |text: &str| {
            let Farm { name, data } = Farm::parse(text);
            (name, data)
        };
        assert_eq!(known("abc/def"), ("abc".to_owned(), "def".to_owned()));
        assert_eq!(known("abc"), ("abc".to_owned(), String::new()));
    }
}
