//! What `REDIS_URL` names, and how connections to it are made.
//!
//! Certificates and the password may come from files. They are read whenever a connection is made,
//! so they can be replaced without a restart.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode,
};

use crate::queue::timing::{CONNECT_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, UNACKNOWLEDGED};

/// The port of a sentinel, unless another one is named.
const SENTINEL_PORT: u16 = 26_379;

/// Where Redis is, and who this process is there.
#[derive(Debug, Clone)]
pub(in crate::queue) struct Address {
    deployment: Deployment,
    encrypted: bool,
    login: RedisConnectionInfo,
    files: Files,
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

/// Files that hold what must not be in a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// `REDIS_CA_FILE`: the certificates of the authorities to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// `REDIS_CERT_FILE`: the certificate of this process.
    pub certificate: Option<PathBuf>,
    /// `REDIS_KEY_FILE`: its key.
    pub key: Option<PathBuf>,
    /// `REDIS_PASSWORD_FILE`: the password of the user.
    pub password: Option<PathBuf>,
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

    fn address(&self, encrypted: bool) -> ConnectionAddr {
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

    pub(super) fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// Makes the connections to the one server, or to the primary that the sentinels know.
    pub(super) fn connector(&self) -> Connector {
        let target = match &self.deployment {
            Deployment::Sentinel { sentinels, primary } => {
                Target::Watched(sentinels.clone(), primary.clone())
            }
            Deployment::One(server) => Target::Server(server.clone()),
            Deployment::Cluster(seeds) => Target::Server(seeds[0].address(self.encrypted)),
        };
        Connector {
            address: self.clone(),
            target,
        }
    }

    /// Makes the connections to one node of a cluster.
    pub(super) fn connector_to(&self, node: &Endpoint) -> Connector {
        Connector {
            address: self.clone(),
            target: Target::Server(node.address(self.encrypted)),
        }
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

/// Makes connections to one server.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    address: Address,
    target: Target,
}

#[derive(Debug, Clone)]
enum Target {
    Server(ConnectionAddr),
    /// Whichever server the sentinels say is the primary of this name.
    Watched(Vec<Endpoint>, String),
}

impl Connector {
    /// Where the connections lead. Sentinels decide that anew for each connection: then it is the
    /// name of the primary.
    pub(super) fn endpoint(&self) -> Endpoint {
        match &self.target {
            Target::Server(
                ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. },
            ) => Endpoint::new(host, *port),
            Target::Server(other) => Endpoint::new(&other.to_string(), 0),
            Target::Watched(_, primary) => Endpoint::new(primary, 0),
        }
    }

    /// A connection whose commands fail without an answer within `limit`.
    pub(super) async fn connect(&self, limit: Duration) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(limit));
        self.connect_with(&config, ProtocolVersion::RESP2).await
    }

    /// As [`Self::connect`], with options of the library.
    pub(super) async fn connect_with(
        &self,
        config: &AsyncConnectionConfig,
        protocol: ProtocolVersion,
    ) -> RedisResult<MultiplexedConnection> {
        let client = self.client(protocol).await?;
        // Boxed here and in the next function: the types of futures would become too deep.
        client
            .get_multiplexed_async_connection_with_config(config)
            .boxed()
            .await
    }

    /// A connection for a subscription.
    pub(super) async fn subscriber(&self) -> RedisResult<PubSub> {
        let client = self.client(ProtocolVersion::RESP2).await?;
        client.get_async_pubsub().await
    }

    fn client(&self, protocol: ProtocolVersion) -> BoxFuture<'_, RedisResult<Client>> {
        self.make_client(protocol).boxed()
    }

    async fn make_client(&self, protocol: ProtocolVersion) -> RedisResult<Client> {
        let Address {
            login,
            files,
            encrypted,
            ..
        } = &self.address;
        let mut login = login.clone().set_protocol(protocol);
        if let Some(password) = files.password().await? {
            login = login.set_password(password);
        }
        let certificates = if *encrypted {
            Some(files.certificates().await?)
        } else {
            None
        };
        match &self.target {
            Target::Server(server) => {
                let info = server.clone().into_connection_info()?;
                let info = info
                    .set_redis_settings(login)
                    .set_tcp_settings(tcp_settings());
                match certificates {
                    Some(certificates) => Client::build_with_tls(info, certificates),
                    None => Client::open(info),
                }
            }
            Target::Watched(sentinels, primary) => {
                watched(sentinels, primary, &login, certificates).await
            }
        }
    }
}

/// Asks the sentinels for the primary, which must say itself that it is one.
async fn watched(
    sentinels: &[Endpoint],
    primary: &str,
    login: &RedisConnectionInfo,
    certificates: Option<TlsCertificates>,
) -> RedisResult<Client> {
    let encrypted = certificates.is_some();
    let sentinels = sentinels.iter().map(|sentinel| sentinel.address(encrypted));
    let name = primary.to_owned();
    let mut builder = SentinelClientBuilder::new(sentinels, name, SentinelServerType::Master)?
        .set_client_to_redis_db(login.db())
        .set_client_to_redis_protocol(login.protocol())
        .set_client_to_redis_tcp_settings(tcp_settings())
        .set_client_to_sentinel_tcp_settings(tcp_settings());
    if let Some(user) = login.username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = login.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let Some(certificates) = certificates {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(certificates);
    }
    let mut client = builder.build()?;
    tokio::time::timeout(2 * CONNECT_TIMEOUT, client.async_get_client())
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

impl Files {
    /// The password, without the line break at its end.
    async fn password(&self) -> RedisResult<Option<String>> {
        let Some(path) = &self.password else {
            return Ok(None);
        };
        let text = read(path).await?;
        let text = String::from_utf8(text).map_err(|_| unusable(path, "is not text"))?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }

    async fn certificates(&self) -> RedisResult<TlsCertificates> {
        let root_cert = match &self.ca {
            Some(path) => Some(read(path).await?),
            None => None,
        };
        let client_tls = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some(ClientTlsConfig {
                client_cert: read(certificate).await?,
                client_key: read(key).await?,
            }),
            _ => None,
        };
        Ok(TlsCertificates {
            client_tls,
            root_cert,
        })
    }
}

async fn read(path: &Path) -> RedisResult<Vec<u8>> {
    let read = tokio::fs::read(path).await;
    read.map_err(|error| unusable(path, &error.to_string()))
}

/// Counts as a refused connection: nothing was sent.
fn unusable(path: &Path, why: &str) -> RedisError {
    let text = format!("{}: {why}", path.display());
    RedisError::from((ErrorKind::InvalidClientConfig, "cannot use a file", text))
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(3);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(UNACKNOWLEDGED)
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
