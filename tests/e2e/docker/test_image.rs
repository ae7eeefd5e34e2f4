//! Images FROM scratch, written as `docker save` would write them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shared::queue::blobs::digest;
use uuid::Uuid;

/// The description of an image.
#[derive(Debug, Clone)]
pub(super) struct TestImage {
    config: Value,
    tags: Vec<String>,
    /// A file in the layer besides the program.
    file: Option<String>,
    /// How often the layer is in the image.
    layers: usize,
    /// The processor that the image is for.
    architecture: &'static str,
    /// What is in the place of the program.
    program: Option<Vec<u8>>,
}

impl TestImage {
    /// An image that serves on port 8080.
    pub(super) fn new() -> Self {
        let unique = Uuid::new_v4().to_string();
        Self {
            config: json!({
                "Entrypoint": ["/contract-server"],
                "Cmd": ["serve"],
                // A unique label, so that no two tests have the same image.
                "Labels": { "test": unique },
            }),
            tags: Vec::new(),
            file: None,
            layers: 1,
            architecture: architecture(),
            program: None,
        }
    }

    /// An image whose program is started with these arguments.
    pub(super) fn command(arguments: &[&str]) -> Self {
        Self::new().with("Cmd", json!(arguments))
    }

    /// Sets a field of the image's configuration.
    pub(super) fn with(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Adds a label.
    pub(super) fn label(mut self, name: &str, value: &str) -> Self {
        self.config["Labels"][name] = json!(value);
        self
    }

    /// Names the image.
    pub(super) fn tag(mut self, tag: &str) -> Self {
        self.tags.push(tag.to_owned());
        self
    }

    /// Gives the image a unique layer, because the daemon does not pull a layer that it has.
    pub(super) fn with_own_layer(mut self) -> Self {
        self.file = Some(Uuid::new_v4().to_string());
        self
    }

    /// An image that has its layer twice, as one that copies a file twice.
    pub(super) fn with_its_layer_twice(mut self) -> Self {
        self.layers = 2;
        self
    }

    /// An image for another processor than this machine's.
    pub(super) fn of_another_processor() -> Self {
        let (name, machine) = match architecture() {
            "arm64" => ("amd64", 62),
            _ => ("arm64", 183),
        };
        // The header of a program in the Executable and Linkable Format, and nothing else.
        let mut header = vec![0; 64];
        header[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
        header[16] = 2;
        header[18] = machine;
        Self {
            architecture: name,
            program: Some(header),
            ..Self::new()
        }
    }

    /// The one layer, which contains little more than the program.
    fn layer(&self) -> Vec<u8> {
        let program = program();
        let content = self.program.clone().unwrap_or_else(|| {
            std::fs::read(&program).unwrap_or_else(|error| {
                panic!("{}: {error}: `make test` builds it", program.display())
            })
        });
        let mut files = vec![("contract-server".to_owned(), content)];
        files.extend(self.file.iter().map(|file| (file.clone(), Vec::new())));
        pack(&files)
    }

    fn config_file(&self, layer: &[u8]) -> Vec<u8> {
        let layer_digest = format!("sha256:{}", digest(layer));
        let file = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": vec![layer_digest; self.layers] },
        });
        file.to_string().into_bytes()
    }

    /// The image's configuration and its one layer.
    pub(super) fn parts(&self) -> (Vec<u8>, Vec<u8>) {
        let layer = self.layer();
        (self.config_file(&layer), layer)
    }

    /// The id that the image has once it is loaded.
    pub(super) fn id(&self) -> String {
        format!("sha256:{}", digest(&self.config_file(&self.layer())))
    }

    /// The files of the image's tar: path and content.
    pub(super) fn files(&self) -> Vec<(String, Vec<u8>)> {
        let layer = self.layer();
        let config = self.config_file(&layer);
        let name = format!("{}.json", digest(&config));
        let manifest = json!([{
            "Config": name,
            "RepoTags": self.tags,
            "Layers": vec!["layer/layer.tar"; self.layers],
        }]);
        vec![
            (name, config),
            ("layer/layer.tar".to_owned(), layer),
            (
                "manifest.json".to_owned(),
                manifest.to_string().into_bytes(),
            ),
        ]
    }

    /// The image as a tar.
    pub(super) fn tar(&self) -> Vec<u8> {
        pack(&self.files())
    }
}

/// Packs files into a tar.
pub(super) fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        add(&mut tar, path, content);
    }
    tar.into_inner().expect("a Vec takes every byte")
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
        .expect("a Vec takes every byte");
}

fn program() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("contract-server/target");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    target.join(triple).join("release/contract-server")
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
