//! A server that accepts only TLS, with certificates made for the test. Both sides show one.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use redis::{ClientTlsConfig, TlsCertificates};
use shared::queue::RedisFiles;
use tempfile::TempDir;

use super::server::Server;
use super::{Deployment, Kind};

pub(crate) fn start(folder: TempDir) -> Deployment {
    let authority = Authority::new(folder.path());
    let (certificate, key) = authority.issue(folder.path(), "server");
    let (own_certificate, own_key) = authority.issue(folder.path(), "client");
    let files = RedisFiles {
        ca: Some(authority.file.clone()),
        certificate: Some(own_certificate),
        key: Some(own_key),
        password: None,
    };
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let server = Server::encrypted(
        folder.path(),
        trust(&files),
        &[
            "--tls-ca-cert-file",
            &text(&authority.file),
            "--tls-cert-file",
            &text(&certificate),
            "--tls-key-file",
            &text(&key),
        ],
    );
    let url = format!("rediss://localhost:{}", server.port());
    let mut deployment = Deployment::new(Kind::Tls, folder, url, vec![server]);
    deployment.config.files = files;
    deployment
}

/// What a client needs of the files.
pub(crate) fn trust(files: &RedisFiles) -> TlsCertificates {
    let read = |path: &Option<PathBuf>| std::fs::read(path.as_ref().unwrap()).unwrap();
    TlsCertificates {
        client_tls: Some(ClientTlsConfig {
            client_cert: read(&files.certificate),
            client_key: read(&files.key),
        }),
        root_cert: Some(read(&files.ca)),
    }
}

/// Signs the certificates of one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its own certificate.
    pub file: PathBuf,
}

impl Authority {
    /// A new authority, whose certificate is `ca.pem` in a folder.
    pub fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let name = "authority of the tests";
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = folder.join("ca.pem");
        std::fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file }
    }

    /// A certificate for `localhost` and its key, as files.
    pub fn issue(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        self.issue_for(&["localhost"], folder, name)
    }

    /// A certificate for these hosts and its key, as files.
    pub fn issue_for(&self, hosts: &[&str], folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
        let params = CertificateParams::new(hosts).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = ["crt", "key"].map(|kind| folder.join(format!("{name}.{kind}")));
        std::fs::write(&files[0], certificate.pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        let [certificate, key] = files;
        (certificate, key)
    }
}
