//! What `REDIS_URL` names. How connections to it are made is in [`connector`](super::connector).

use std::fmt;

use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

use super::connector::Files;

/// The port of a sentinel, unless another one is named.
const SENTINEL_PORT: u16 = 26_379;

/// Where Redis is, and who this process is there.
#[derive(Debug, Clone)]
pub(in crate::queue) struct Address {
    pub(super) deployment: Deployment,
    pub(super) encrypted: bool,
    /// User, password and database.
    pub(super) login: RedisConnectionInfo,
    pub(super) files: Files,
}

/// How Redis is run.
#[derive(Debug, Clone)]
pub(super) enum Deployment {
    /// One server, or one name that always leads to the primary.
    One(ConnectionAddr),
    /// Sentinels, who know which server is the primary of the name.
    Sentinel {
        sentinels: Vec<Endpoint>,
        primary: String,
    },
    /// A cluster, of which some nodes are named.
    Cluster(Vec<Endpoint>),
}

/// A server in the network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
}

/// Why a text is not the address of a Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::queue) enum InvalidAddress {
    #[error(
        "is not a URL of Redis: redis://, rediss://, unix:// or redis+unix://, or one of \
         redis+sentinel://, rediss+sentinel://, redis+cluster:// and rediss+cluster:// with hosts \
         separated by commas"
    )]
    NotAnAddress,
    #[error("must name the primary that the sentinels watch: redis+sentinel://HOST:PORT,../NAME")]
    NoPrimary,
    #[error("must not select a database: a cluster has only one")]
    Database,
    #[error("must not ask for RESP3, which this program does not use")]
    Resp3,
}

impl Endpoint {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
        }
    }

    /// Parses what a node answers. Without a host, it is that of the node itself.
    pub(super) fn parse(text: &str, from: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.is_empty() { &from.host } else { host };
        Some(Self::new(host, port.parse().ok()?))
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// As the library names it.
    pub(super) fn address(&self, encrypted: bool) -> ConnectionAddr {
        let (host, port) = (self.host.clone(), self.port);
        if encrypted {
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host, port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Address {
    /// Parses `REDIS_URL`.
    pub(in crate::queue) fn parse(url: &str, files: Files) -> Result<Self, InvalidAddress> {
        let (scheme, rest) = url.split_once("://").ok_or(InvalidAddress::NotAnAddress)?;
        match scheme.split_once('+') {
            Some((base, "sentinel")) => Self::parse_sentinel(base, rest, files),
            Some((base, "cluster")) => Self::parse_cluster(base, rest, files),
            _ => {
                let (server, login) = parse_server(url)?;
                Ok(Self {
                    encrypted: matches!(server, ConnectionAddr::TcpTls { .. }),
                    deployment: Deployment::One(server),
                    login,
                    files,
                })
            }
        }
    }

    /// `redis+sentinel://[USER:PASSWORD@]HOST[:PORT],../NAME[/DATABASE]`
    fn parse_sentinel(base: &str, rest: &str, files: Files) -> Result<Self, InvalidAddress> {
        let (hosts, path) = rest.split_once('/').ok_or(InvalidAddress::NoPrimary)?;
        let (primary, database) = path.split_once('/').unwrap_or((path, ""));
        if primary.is_empty() {
            return Err(InvalidAddress::NoPrimary);
        }
        let (encrypted, sentinels, login) = parse_hosts(base, hosts, database, SENTINEL_PORT)?;
        Ok(Self {
            deployment: Deployment::Sentinel {
                sentinels,
                primary: primary.to_owned(),
            },
            encrypted,
            login,
            files,
        })
    }

    /// `redis+cluster://[USER:PASSWORD@]HOST[:PORT],..`
    fn parse_cluster(base: &str, rest: &str, files: Files) -> Result<Self, InvalidAddress> {
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(database, "" | "0") {
            return Err(InvalidAddress::Database);
        }
        let (encrypted, seeds, login) = parse_hosts(base, hosts, "", 6379)?;
        Ok(Self {
            deployment: Deployment::Cluster(seeds),
            encrypted,
            login,
            files,
        })
    }
}

type Hosts = (bool, Vec<Endpoint>, RedisConnectionInfo);

fn parse_hosts(
    base: &str,
    hosts: &str,
    database: &str,
    default_port: u16,
) -> Result<Hosts, InvalidAddress> {
    let (user, hosts) = match hosts.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), hosts),
    };
    let (mut endpoints, mut login) = (Vec::new(), None);
    for host in hosts.split(',') {
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.contains(']'));
        let port = if has_port {
            String::new()
        } else {
            format!(":{default_port}")
        };
        let (server, parsed) = parse_server(&format!("{base}://{user}{host}{port}/{database}"))?;
        endpoints.push(match server {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Endpoint { host, port }
            }
            _ => return Err(InvalidAddress::NotAnAddress),
        });
        login = Some(parsed);
    }
    let login = login.ok_or(InvalidAddress::NotAnAddress)?;
    Ok((base == "rediss", endpoints, login))
}

fn parse_server(url: &str) -> Result<(ConnectionAddr, RedisConnectionInfo), InvalidAddress> {
    let info = url
        .into_connection_info()
        .map_err(|_| InvalidAddress::NotAnAddress)?;
    let login = info.redis_settings().clone();
    if login.protocol() != ProtocolVersion::RESP2 {
        return Err(InvalidAddress::Resp3);
    }
    Ok((info.addr().clone(), login))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, InvalidAddress> {
        Address::parse(url, Files::default())
    }

    fn hosts(endpoints: &[Endpoint]) -> String {
        let names: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
        names.join(" ")
    }

    #[test]
    fn one_server_is_parsed_by_the_library() {
        let address = parse("rediss://me:secret@redis.example/3").unwrap();
        assert!(address.encrypted);
        assert_eq!(address.login.username(), Some("me"));
        assert_eq!(address.login.db(), 3);
        assert!(parse("unix:///run/redis.sock").is_ok());
    }

    #[test]
    fn sentinels_name_a_primary() {
        let address = parse("redis+sentinel://me:a%40b@s1,[::1]:7000/farm/2").unwrap();
        let Deployment::Sentinel { sentinels, primary } = &address.deployment else {
            panic!("{address:?}");
        };
        assert_eq!(hosts(sentinels), "s1:26379 ::1:7000");
        assert_eq!(primary, "farm");
        assert_eq!(address.login.password(), Some("a@b"));
        assert_eq!(address.login.db(), 2);
        assert!(!address.encrypted);
        let unnamed = parse("redis+sentinel://s1,s2");
        assert_eq!(unnamed.unwrap_err(), InvalidAddress::NoPrimary);
    }

    #[test]
    fn a_cluster_has_seeds_and_one_database() {
        let address = parse("rediss+cluster://n1:7001,n2").unwrap();
        let Deployment::Cluster(seeds) = &address.deployment else {
            panic!("{address:?}");
        };
        assert_eq!(hosts(seeds), "n1:7001 n2:6379");
        assert!(address.encrypted);
        let database = parse("redis+cluster://n1/1");
        assert_eq!(database.unwrap_err(), InvalidAddress::Database);
    }

    #[test]
    fn what_would_not_work_is_refused() {
        let resp3 = parse("redis://n1/?protocol=resp3");
        assert_eq!(resp3.unwrap_err(), InvalidAddress::Resp3);
        for url in [
            "http://n1",
            "redis+cluster://",
            "n1:6379",
            "redis+ring://n1",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }
}
