//! D3: a setuid program that would run as root.

use serde_json::{Value, json};
use shared::queue::blobs::digest;
use uuid::Uuid;

use super::Cases;
use super::docker_farm::DockerFarm;
use super::test_image::{self, TestImage};

/// An unprivileged user, in whose container everything belongs to root.
const USER: &str = "65534";

pub(super) async fn run(cases: &mut Cases, unrestricted: &mut DockerFarm) {
    // Where new privileges are allowed, it works.
    let control = euid(unrestricted).await;
    cases
        .run("D3", "setuid program", async |farm| {
            let own = euid(farm).await?;
            let control = control.clone()?;
            if control != "0" {
                return Err(format!("control: it is {control} there, too"));
            }
            (own == USER)
                .then(|| {
                    (
                        format!("it stays {own}"),
                        Some("it becomes root".to_owned()),
                    )
                })
                .ok_or_else(|| format!("it became {own}"))
        })
        .await;
}

/// The user that a contract's setuid program runs as.
async fn euid(farm: &mut DockerFarm) -> Result<String, String> {
    let image = image(farm).await;
    farm.load("setuid", &image).await.is_no_content();
    let whoami = farm.call("setuid", "whoami", Value::Null).await;
    let seen = farm.call("setuid", "setuid", Value::Null).await;
    farm.client().unload("setuid").await.is_no_content();
    let uids = whoami["Uid"].as_str().unwrap_or_default();
    if !uids.starts_with(USER) {
        return Err(format!("control: the contract is {uids}"));
    }
    Ok(seen.as_str().unwrap_or_default().to_owned())
}

/// The usual image, with a second copy of its program that belongs to root.
async fn image(farm: &mut DockerFarm) -> String {
    let tag = format!("execution-test/{}:1", Uuid::new_v4().simple());
    let (config, layer) = TestImage::new().with("User", json!(USER)).parts();
    let mut program = Vec::new();
    let mut archive = tar::Archive::new(&layer[..]);
    let entries = archive.entries().expect("the layer is a tar");
    for entry in entries {
        let mut entry = entry.expect("the layer is a tar");
        std::io::copy(&mut entry, &mut program).expect("a Vec takes every byte");
    }
    let mut layer = tar::Builder::new(Vec::new());
    for (path, mode) in [("contract-server", 0o755), ("root-server", 0o4755)] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_size(program.len() as u64);
        layer
            .append_data(&mut header, path, &program[..])
            .expect("a Vec takes every byte");
    }
    let layer = layer.into_inner().expect("a Vec takes every byte");
    let mut config: Value = serde_json::from_slice(&config).expect("it was made as JSON");
    config["rootfs"]["diff_ids"] = json!([format!("sha256:{}", digest(&layer))]);
    let config = config.to_string().into_bytes();
    let name = format!("{}.json", digest(&config));
    let manifest = json!([{ "Config": name, "RepoTags": [tag], "Layers": ["layer/layer.tar"] }]);
    let files = [
        (name, config),
        ("layer/layer.tar".to_owned(), layer),
        (
            "manifest.json".to_owned(),
            manifest.to_string().into_bytes(),
        ),
    ];
    farm.import(&test_image::pack(&files)).await;
    farm.remove_on_stop(&tag);
    tag
}
