//! D4 and D5: images and tars that ask for more than they may have.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use super::docker_farm::{DockerFarm, base64};
use super::test_image::{self, TestImage};
use super::{Cases, Outcome, TAR_LIMIT};
use crate::attack::Expect::Fails;
use crate::attack::shown;

/// Runs the rows.
pub(super) async fn run(cases: &mut Cases) {
    cases
        .run("D4", "an image that asks for more", greedy_image)
        .await;
    cases.run("D4", "labels that imitate ours", labels).await;
    cases.run("D4", "no port, one, and two", ports).await;
    cases
        .run("D5", "tars that are more than an image", tars)
        .await;
    cases
        .run("D5", "a tar that names another's tag", thief)
        .await;
}

async fn greedy_image(farm: &mut DockerFarm) -> Outcome {
    let test_image = TestImage::new()
        .with("Volumes", json!({ "/data": {} }))
        .with(
            "Healthcheck",
            json!({ "Test": ["CMD", "/contract-server", "sleep"], "Interval": 1_000_000_000 }),
        )
        .with("User", json!("0"))
        .with("Env", json!([format!("HUGE={}", "x".repeat(60_000))]))
        .with("ExposedPorts", json!({ "8080/tcp": {} }));
    let image = farm.image(test_image).await;
    let wants = farm.docker.inspect_image(&image).await;
    let wants = wants.map_err(|error| error.to_string())?.config;
    let wants = wants.is_some_and(|all| all.volumes.is_some() && all.healthcheck.is_some());
    if !wants {
        return Err("control: the image does not ask for it".to_owned());
    }
    let loaded = farm.load("greedy", &image).await;
    if loaded.status != 204 {
        return Err(shown(&loaded));
    }
    let container = farm.container("greedy").await;
    let mounts = container.mounts.unwrap_or_default().len();
    let health = container.config.and_then(|config| config.healthcheck?.test);
    farm.client().unload("greedy").await.is_no_content();
    let fine = mounts == 0 && health.as_deref() == Some(&["NONE".to_owned()][..]);
    fine.then(|| {
        let control = "the image has both, as the daemon sees it".to_owned();
        ("no mounts, no health check".to_owned(), Some(control))
    })
    .ok_or_else(|| format!("{mounts} mounts, {health:?}"))
}

async fn labels(farm: &mut DockerFarm) -> Outcome {
    let test_image = TestImage::new()
        .label("execution.worker", "somebody")
        .label("execution.address", "good");
    let image = farm.image(test_image).await;
    farm.load("liar", &image).await.is_no_content();
    let containers = farm.containers("good").await.len();
    let answer = farm.client().call("liar", "count").await;
    farm.client().unload("liar").await.is_no_content();
    let good = farm.containers("good").await.len();
    (containers == 1 && good == 1 && answer.status == 200)
        .then(|| ("they are overwritten".to_owned(), None))
        .ok_or_else(|| format!("{containers}, then {good} containers of the neighbour"))
}

/// A single exposed port is where the image listens. No port is published.
async fn ports(farm: &mut DockerFarm) -> Outcome {
    let cases = [
        ("none", "8080", json!({})),
        ("one", "3000", json!({ "3000/tcp": {} })),
        ("two", "8080", json!({ "3000/tcp": {}, "3001/tcp": {} })),
    ];
    for (name, listens, exposed) in cases {
        let test_image = TestImage::command(&["serve", listens]).with("ExposedPorts", exposed);
        let image = farm.image(test_image).await;
        let loaded = farm.load("ports", &image).await;
        let answer = farm.client().call("ports", "count").await;
        if (loaded.status, answer.status) != (204, 200) {
            return Err(format!("{name}: {}, {}", shown(&loaded), shown(&answer)));
        }
        let settings = farm.container("ports").await.network_settings;
        let published = settings
            .and_then(|settings| settings.ports)
            .unwrap_or_default();
        farm.client().unload("ports").await.is_no_content();
        if published.values().any(Option::is_some) {
            return Err(format!("{name}: published {published:?}"));
        }
    }
    Ok(("all serve, none is published".to_owned(), None))
}

async fn tars(farm: &mut DockerFarm) -> Outcome {
    let whole = TestImage::new().files();
    let zeros = ("layer/zeros".to_owned(), vec![0; 2 * TAR_LIMIT as usize]);
    let bomb = test_image::pack(&[&whole[..], &[zeros]].concat());
    let cases = [
        ("dots", with_path("../../etc/cron.d/x", &whole)),
        ("an absolute path", with_path("/etc/cron.d/x", &whole)),
        ("no manifest", test_image::pack(&whole[..2])),
        ("no tar", vec![7; 2048]),
        ("too much", bomb.clone()),
        ("a bomb", zipped(&bomb)?),
    ];
    for (name, tar) in &cases {
        let answer = farm.load("tar", &base64(tar)).await;
        if let Some(wrong) = Fails(422, "invalid_executable").mismatch(&answer) {
            return Err(format!("{name}: {wrong}"));
        }
    }
    let control = farm.load("tar", &base64(&test_image::pack(&whole))).await;
    if control.status != 204 {
        return Err(format!("control: {}", shown(&control)));
    }
    farm.client().unload("tar").await.is_no_content();
    let control = "without its addition it is loaded".to_owned();
    Ok((format!("{} refused", cases.len()), Some(control)))
}

pub(super) fn zipped(tar: &[u8]) -> Result<Vec<u8>, String> {
    let mut zip = GzEncoder::new(Vec::new(), Compression::best());
    let written = zip.write_all(tar).and_then(|()| zip.finish());
    written.map_err(|error| error.to_string())
}

/// A tar with a path that leads outside, which the `tar` crate would not write by itself.
fn with_path(path: &str, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_old();
    header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
    header.set_size(1);
    header.set_mode(0o644);
    header.set_cksum();
    tar.append(&header, &b"x"[..])
        .expect("a Vec takes every byte");
    for (path, content) in files {
        let mut header = tar::Header::new_old();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append_data(&mut header, path, &content[..])
            .expect("a Vec takes every byte");
    }
    tar.into_inner().expect("a Vec takes every byte")
}

async fn thief(farm: &mut DockerFarm) -> Outcome {
    let theirs = farm.image(TestImage::new()).await;
    let before = farm
        .docker
        .inspect_image(&theirs)
        .await
        .map_err(|error| error.to_string())?
        .id;
    let tar = TestImage::new().tag(&theirs).tar();
    farm.load("thief", &base64(&tar)).await.is_no_content();
    let after = farm
        .docker
        .inspect_image(&theirs)
        .await
        .map_err(|error| error.to_string())?
        .id;
    farm.client().unload("thief").await.is_no_content();
    (before == after)
        .then(|| {
            (
                "the tag stays".to_owned(),
                Some("`docker load` moves it: tests/e2e/docker/tar.rs".to_owned()),
            )
        })
        .ok_or_else(|| "the tag was moved".to_owned())
}
