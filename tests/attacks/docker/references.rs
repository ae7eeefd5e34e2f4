//! S10: references with which a caller would send the daemon into the network, or run what the host
//! has.

use super::docker_farm::{DockerFarm, base64};
use super::test_image::TestImage;
use super::{Cases, Outcome};
use crate::attack::Expect::Fails;
use crate::attack::shown;

/// Runs the rows.
pub(super) async fn run(cases: &mut Cases) {
    cases
        .run("S10", "references into the network", addresses)
        .await;
    cases.run("S10", "ids of images", ids).await;
}

/// The daemon does not ask an address for a caller, unless the operator has allowed it.
async fn addresses(farm: &mut DockerFarm) -> Outcome {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .map_err(|error| error.to_string())?;
    let host = listener.local_addr().map_err(|error| error.to_string())?;
    let asked = async |reference: &str| {
        tokio::select! {
            answer = farm.load("spy", reference) => Err(answer),
            _ = listener.accept() => Ok(()),
        }
    };
    for path in ["a/path", "app/latest", "team/app:1.2"] {
        let reference = format!("{host}/{path}");
        let digest = format!("{reference}@sha256:{}", "0".repeat(64));
        let digest = digest.replace(":1.2@", "@");
        for reference in [base64(reference.as_bytes()), reference, digest] {
            match asked(&reference).await {
                Ok(()) => return Err(format!("{reference}: the daemon asked")),
                Err(answer) => {
                    if let Some(wrong) = Fails(422, "invalid_executable").mismatch(&answer) {
                        return Err(format!("{reference}: {wrong}"));
                    }
                }
            }
        }
    }
    // Allowed by the tests' list of images.
    let reference = format!("{host}/app:1");
    if let Err(answer) = asked(&reference).await {
        return Err(format!("control: {}", shown(&answer)));
    }
    let control = "an allowed reference reaches the listener".to_owned();
    Ok(("0 connections".to_owned(), Some(control)))
}

/// An id would run whatever image the daemon has.
async fn ids(farm: &mut DockerFarm) -> Outcome {
    let image = farm.image(TestImage::new()).await;
    let found = farm.docker.inspect_image(&image).await;
    let id = found
        .map_err(|error| error.to_string())?
        .id
        .unwrap_or_default();
    let digits = id.trim_start_matches("sha256:").to_owned();
    for id in [&id[..], &digits, &digits[..12]] {
        for text in [id.to_owned(), base64(id.as_bytes())] {
            let answer = farm.load("spy", &text).await;
            if let Some(wrong) = Fails(422, "invalid_executable").mismatch(&answer) {
                return Err(format!("{id}: {wrong}"));
            }
        }
    }
    if !farm.has_image(&digits[..12]).await {
        return Err("control: the daemon does not find it".to_owned());
    }
    let control = farm.load("spy", &image).await;
    farm.client().unload("spy").await.is_no_content();
    (control.status == 204)
        .then(|| {
            let control = "the daemon finds it by its id; by its name it is loaded".to_owned();
            ("refused in every form".to_owned(), Some(control))
        })
        .ok_or_else(|| format!("control: {}", shown(&control)))
}
