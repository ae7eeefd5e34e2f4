//! Makes connections to what an [`Address`] names.
//!
//! Certificates and the password may come from files. They are read whenever a connection is made,
//! so they can be replaced without a restart.

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

use super::address::{Address, Deployment, Endpoint};
use crate::queue::timing::{CONNECT_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, UNACKNOWLEDGED};

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
    /// Leads to the one server, or to the primary that the sentinels know. Of a cluster, to the
    /// first node that is named.
    pub(super) fn new(address: &Address) -> Self {
        let target = match &address.deployment {
            Deployment::Sentinel { sentinels, primary } => {
                Target::Watched(sentinels.clone(), primary.clone())
            }
            Deployment::One(server) => Target::Server(server.clone()),
            Deployment::Cluster(seeds) => Target::Server(seeds[0].address(address.encrypted)),
        };
        Self {
            address: address.clone(),
            target,
        }
    }

    /// Leads to one node of a cluster.
    pub(super) fn to(address: &Address, node: &Endpoint) -> Self {
        Self {
            address: address.clone(),
            target: Target::Server(node.address(address.encrypted)),
        }
    }

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
