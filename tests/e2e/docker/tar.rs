//! Images that are loaded as a tar: they add an image and have no other effect on the daemon.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use super::docker_farm::{DockerFarm, base64, docker_builder};
use super::test_image::{TestImage, pack};

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("a Vec takes every byte");
    encoder.finish().expect("a Vec takes every byte")
}

#[tokio::test]
async fn a_tar_becomes_a_contract_and_its_image_is_removed_with_the_last_contract() {
    let farm = DockerFarm::start().await;
    let test_image = TestImage::new();
    let plain = base64(&test_image.tar());
    let wrapped: Vec<&str> = plain
        .as_bytes()
        .chunks(76)
        .map(|c| str::from_utf8(c).unwrap())
        .collect();
    let tars = [
        ("plain", plain.clone()),
        ("wrapped", wrapped.join("\r\n")),
        ("gzip", base64(&gzip(&test_image.tar()))),
    ];
    for (address, executable) in &tars {
        farm.load(address, executable).await.is_no_content();
        assert_eq!(farm.call(address, "count", Value::Null).await, 1);
        let shown = farm.client().contract(address).await;
        assert_eq!(shown["image"], test_image.id());
    }
    for (address, _) in &tars {
        assert!(
            farm.has_image(&test_image.id()).await,
            "{address} still needs it"
        );
        farm.client().unload(address).await.is_no_content();
    }
    assert!(!farm.has_image(&test_image.id()).await);
    farm.stop().await;
}

#[tokio::test]
async fn a_tar_does_not_move_a_tag() {
    let mut farm = DockerFarm::start().await;
    let theirs = farm.image(TestImage::new()).await;
    let before = farm.docker.inspect_image(&theirs).await.unwrap().id;
    let thief = TestImage::new().tag(&theirs);
    farm.load("a", &base64(&thief.tar())).await.is_no_content();
    let after = farm.docker.inspect_image(&theirs).await.unwrap().id;
    assert_eq!(before, after);
    // Control: the daemon itself would have moved the tag.
    farm.import(&thief.tar()).await;
    let moved = farm.docker.inspect_image(&theirs).await.unwrap().id;
    assert_eq!(moved.as_deref(), Some(thief.id().as_str()));
    // An image that has a tag is kept, although it was loaded as a tar.
    farm.client().unload("a").await.is_no_content();
    assert!(farm.has_image(&thief.id()).await);
    farm.remove_on_stop(&before.unwrap());
    farm.stop().await;
}

/// A tar with an entry that the `tar` crate would not write.
fn with_entry(path: &[u8], kind: tar::EntryType) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&header, std::io::empty())
        .expect("a Vec takes every byte");
    for (path, content) in TestImage::new().files() {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_slice())
            .expect("a Vec takes every byte");
    }
    tar.into_inner().expect("a Vec takes every byte")
}

/// An image's tar with a link in it, in place of the file of this name if there is one.
fn with_link(path: &str, target: &str, kind: tar::EntryType) -> Vec<u8> {
    let mut files = TestImage::new().with_own_layer().files();
    files.retain(|(name, _)| name != path);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    tar.append_link(&mut header, path, target)
        .expect("a Vec takes every byte");
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_slice())
            .expect("a Vec takes every byte");
    }
    tar.into_inner().expect("a Vec takes every byte")
}

fn without(path: &str) -> Vec<u8> {
    let mut files = TestImage::new().with_own_layer().files();
    files.retain(|(name, _)| name != path);
    pack(&files)
}

fn with(path: &str, content: &[u8]) -> Vec<u8> {
    let mut files = TestImage::new().files();
    match files.iter_mut().find(|(name, _)| name == path) {
        Some(file) => file.1 = content.to_vec(),
        None => files.push((path.to_owned(), content.to_vec())),
    }
    pack(&files)
}

/// A tar whose manifest lists its one image twice.
fn two_images() -> Vec<u8> {
    let mut files = TestImage::new().files();
    let manifest: Value = serde_json::from_slice(&files[2].1).expect("the manifest is JSON");
    files[2].1 = json!([manifest[0], manifest[0]]).to_string().into_bytes();
    pack(&files)
}

/// The size limit of a tar in these tests.
const LIMIT: usize = 8_000_000;

/// Loads each of the tars and checks that it is refused with these words.
async fn are_refused(cases: &[(&str, Vec<u8>, &str)]) {
    let farm =
        DockerFarm::of(docker_builder().env("CONTAINER_TAR_LIMIT_BYTES", &LIMIT.to_string())).await;
    for (what, tar, said) in cases {
        let answer = farm.load("a", &base64(tar)).await;
        assert_eq!(answer.status, 422, "{what}: {answer:?}");
        let text = answer.error_text(422, "invalid_executable");
        assert!(text.contains(said), "{what}: {text}");
    }
    assert_eq!(farm.resources().await, [""; 0]);
    // The worker continues and accepts a valid image.
    let answer = farm
        .load("a", &base64(&gzip(&TestImage::new().tar())))
        .await;
    answer.is_no_content();
    assert_eq!(farm.call("a", "echo", json!(1)).await, 1);
    farm.stop().await;
}

#[tokio::test]
async fn a_tar_with_more_than_an_image_is_refused() {
    use tar::EntryType::{Block, Link, Regular, Symlink};
    are_refused(&[
        ("a path up", with_entry(b"../file", Regular), "leads out"),
        (
            "an absolute path",
            with_entry(b"/etc/file", Regular),
            "leads out",
        ),
        (
            "a link to nothing",
            with_entry(b"link", Symlink),
            "to nothing",
        ),
        (
            "a link that leads out",
            with_link("layer/other.tar", "../../etc/shadow", Symlink),
            "leads out",
        ),
        (
            "a hard link that leads out",
            with_link("layer/other.tar", "../etc/shadow", Link),
            "leads out",
        ),
        (
            "an absolute link",
            with_link("layer/other.tar", "/etc/shadow", Symlink),
            "leads out",
        ),
        (
            "a link to itself",
            with_link("layer/layer.tar", "layer.tar", Symlink),
            "lead nowhere",
        ),
        (
            "a link to a file that is not there",
            with_link("layer/layer.tar", "other.tar", Symlink),
            "does not contain",
        ),
        ("a device", with_entry(b"device", Block), "no plain file"),
        (
            "no manifest",
            without("manifest.json"),
            "create the tar with `docker save`",
        ),
        ("two images", two_images(), "2 images"),
        ("no layer", without("layer/layer.tar"), "does not contain"),
        (
            "a broken manifest",
            with("manifest.json", b"{"),
            "manifest.json",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_tar_that_is_too_large_or_invalid_is_refused() {
    let zeros = vec![0; LIMIT + 1_000_000];
    let whole = TestImage::new().tar();
    let half = whole[..whole.len() / 2].to_vec();
    let text = b"no tar at all, but long enough to be one".repeat(40);
    let layer = |content: &[u8]| with("layer/layer.tar", content);
    are_refused(&[
        ("too large", with("zeros", &zeros), "8000000"),
        ("a bomb", gzip(&with("zeros", &zeros)), "8000000"),
        (
            "a layer that is a bomb",
            layer(&gzip(&zeros)),
            "unpacks to more",
        ),
        (
            "a layer of another kind",
            layer(b"BZh91AY&SY"),
            "other than gzip",
        ),
        ("no tar", text, "neither"),
        ("a cut tar", half, "neither"),
        ("a cut gzip", gzip(&whole)[..1000].to_vec(), "neither"),
    ])
    .await;
}
