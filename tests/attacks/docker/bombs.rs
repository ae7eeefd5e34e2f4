//! S10 and D5: small tars of images that would take much on the host's disk.

use std::collections::BTreeMap;
use std::io::Read;

use bollard::query_parameters::RemoveImageOptionsBuilder;
use serde_json::json;
use shared::queue::blobs::digest;
use uuid::Uuid;

use super::docker_farm::{DockerFarm, base64};
use super::images::zipped;
use super::{Cases, Outcome};
use crate::attack::Expect::Fails;
use crate::attack::shown;

/// Runs the rows.
pub(super) async fn run(cases: &mut Cases) {
    for (name, layers) in BOMBS {
        let case = async |farm: &mut DockerFarm| bomb(farm, layers()).await;
        cases.run("S10", name, case).await;
    }
}

/// What a bomb's layers take on disk, in MiB; a tar may be 8 MB.
const BOMB_MIB: usize = 24;

/// Makes the layers of an image, each a tar.
type MakeLayers = fn() -> Vec<Vec<u8>>;

/// Small tars of images that take much on disk.
const BOMBS: [(&str, MakeLayers); 6] = [
    ("a sparse file, PAX 1.0", || {
        vec![sparse(&["1.0", "realsize"])]
    }),
    ("a sparse file, PAX 0.1", || vec![sparse(&["0.1", "size"])]),
    ("a sparse file in a compressed layer", || {
        vec![zipped(&sparse(&["1.0", "realsize"])).expect("a Vec takes every byte")]
    }),
    ("a layer named many times", || {
        vec![pack(&[("file".to_owned(), vec![b'y'; 1 << 20])]); BOMB_MIB]
    }),
    ("folders", || {
        let folders = (0..BOMB_MIB << 8).map(|n| (format!("{n}/"), Vec::new()));
        vec![pack(&folders.collect::<Vec<_>>())]
    }),
    ("names of many folders", || {
        let files =
            (0..BOMB_MIB / 4).map(|n| (format!("{n}/{}file", "a/".repeat(1024)), Vec::new()));
        vec![pack(&files.collect::<Vec<_>>())]
    }),
];

/// A layer with a file that consists of a hole. `tar --sparse` would write the same.
fn sparse(form: &[&str; 2]) -> Vec<u8> {
    let [version, size] = form;
    let (major, minor) = version.split_once('.').expect("a version has two parts");
    let bytes = BOMB_MIB << 20;
    let map = format!("1\n{bytes}\n0\n");
    let mut content = Vec::new();
    if *version == "1.0" {
        content.extend_from_slice(map.as_bytes());
        content.resize(512, 0);
    }
    let mut tar = tar::Builder::new(Vec::new());
    let records = [
        ("GNU.sparse.major".to_owned(), major.to_owned()),
        ("GNU.sparse.minor".to_owned(), minor.to_owned()),
        (format!("GNU.sparse.{size}"), bytes.to_string()),
        ("GNU.sparse.numblocks".to_owned(), "1".to_owned()),
        ("GNU.sparse.map".to_owned(), format!("{bytes},0")),
    ];
    let records = records
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_bytes()));
    tar.append_pax_extensions(records)
        .expect("a Vec takes every byte");
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, "hole", content.as_slice())
        .expect("a Vec takes every byte");
    tar.into_inner().expect("a Vec takes every byte")
}

/// The size of the daemon's folder, in MiB.
async fn disk(farm: &DockerFarm) -> Result<u64, String> {
    let info = farm.docker.info().await;
    let info = info.map_err(|error| error.to_string())?;
    let du = tokio::process::Command::new("du")
        .args(["--summarize", "--block-size=1M"])
        .arg(info.docker_root_dir.unwrap_or_default())
        .output()
        .await
        .map_err(|error| error.to_string())?;
    // It complains about folders that other tests remove meanwhile.
    let text = String::from_utf8_lossy(&du.stdout);
    let size = text
        .split_whitespace()
        .next()
        .and_then(|size| size.parse().ok());
    size.ok_or_else(|| format!("du: {text}"))
}

/// The worker refuses it. The control loads the same tar into the daemon, and measures the image.
async fn bomb(farm: &mut DockerFarm, layers: Vec<Vec<u8>>) -> Outcome {
    let tag = format!("execution-test/bomb-{}:1", Uuid::new_v4().simple());
    let tar = image(&tag, &layers);
    let size = tar.len();
    let answer = farm.load("tar", &base64(&tar)).await;
    if let Some(wrong) = Fails(422, "invalid_executable").mismatch(&answer) {
        return Err(wrong);
    }
    if !answer.body.contains("unpack") {
        return Err(format!("refused for another reason: {}", shown(&answer)));
    }
    let before = disk(farm).await?;
    farm.import(&tar).await;
    let grown = disk(farm).await?.saturating_sub(before);
    // At once: two bombs may have the same layer, which the daemon stores once.
    let options = RemoveImageOptionsBuilder::new().build();
    let removed = farm.docker.remove_image(&tag, Some(options), None).await;
    removed.map_err(|error| error.to_string())?;
    // Other tests may remove images meanwhile, but not half as much.
    (grown >= BOMB_MIB as u64 / 2)
        .then(|| {
            let control = format!("`docker load` of {size} bytes takes {grown} MiB");
            (shown(&answer), Some(control))
        })
        .ok_or_else(|| format!("control: `docker load` takes {grown} MiB"))
}

/// The tar of an image with these layers. Equal ones are one file that is named several times.
fn image(tag: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids = layers.iter().map(|layer| {
        // The id is of the expanded layer.
        let mut expanded = Vec::new();
        let mut unzip = flate2::read::GzDecoder::new(layer.as_slice());
        let is_zipped = unzip.read_to_end(&mut expanded).is_ok();
        format!(
            "sha256:{}",
            digest(if is_zipped { &expanded } else { layer })
        )
    });
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/none"] },
        "rootfs": { "type": "layers", "diff_ids": ids.collect::<Vec<_>>() },
    });
    let names = layers
        .iter()
        .map(|layer| format!("{}.tar", &digest(layer)[..12]));
    let names: Vec<_> = names.collect();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [tag], "Layers": names }]);
    let mut files: BTreeMap<_, _> = names.into_iter().zip(layers.to_vec()).collect();
    for (name, content) in [("config.json", config), ("manifest.json", manifest)] {
        files.insert(name.to_owned(), content.to_string().into_bytes());
    }
    pack(&files.into_iter().collect::<Vec<_>>())
}

/// Packs files into a tar; a path that ends with a slash is a folder.
fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        tar.append_data(&mut header, path, content.as_slice())
            .expect("a Vec takes every byte");
    }
    tar.into_inner().expect("a Vec takes every byte")
}
