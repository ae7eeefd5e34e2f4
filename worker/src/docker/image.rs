//! Images: makes the image of a reference or of a tar present on this daemon, and removes it.
//!
//! A reference is resolved at each load. From then on its contract runs the image that the
//! reference stood for, or none: a name may stand for another image at any time.

use bollard::errors::Error;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ImportImageOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures::{StreamExt, TryStreamExt};
use shared::protocol::image::{self, PinnedImage};
use tokio::sync::mpsc;

use super::config::Registry;
use super::daemon::Docker;
use super::{error, tar};
use crate::sandbox::StartError;

/// The port of a contract whose image exposes no port, or several.
const PORT: u16 = 8080;

/// The maximum number of chunks of a tar that wait for the daemon.
const QUEUED_CHUNKS: usize = 4;

/// An image that is present on the daemon.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// Containers are created from exactly this.
    pub(super) pin: PinnedImage,
    /// The port at which its contract listens.
    pub(super) port: u16,
    /// The TCP ports that it exposes.
    pub(super) exposed: Vec<u16>,
    /// The processor that it is for, such as `amd64`.
    pub(super) architecture: Option<String>,
    /// The folders that the image declares as volumes.
    pub(super) volumes: Vec<String>,
    /// Whether it was loaded from a tar. Then it has no name, and is removed with its last
    /// container.
    pub(super) from_tar: bool,
}

impl Image {
    /// The id of an image that was loaded from a tar.
    pub(super) fn tar_id(&self) -> Option<&str> {
        self.from_tar.then_some(&self.pin.id)
    }
}

/// The failure of a load whose image took too long.
pub(super) fn late() -> StartError {
    StartError::ImageUnavailable("The image was not available in time; try again".to_owned())
}

impl Docker {
    /// Makes sure that an image is present: `pinned`, the one that the contract was loaded with, or
    /// at a load the one that the executable stands for now.
    pub(super) async fn image(
        &self,
        executable: &str,
        pinned: Option<&PinnedImage>,
    ) -> Result<Image, StartError> {
        if !image::is_reference(executable) {
            if let Some(pinned) = pinned
                && let Some(image) = self.find_image(&pinned.id, None).await?
            {
                return Ok(image);
            }
            return self.tar_image(executable).await;
        }
        if !self.config.images.has(executable) {
            tracing::warn!(
                image = executable,
                "image reference refused: not in CONTAINER_IMAGES"
            );
            return Err(StartError::Invalid(format!(
                "The image {executable} is not among the images that this deployment allows. Ask \
                 its operator to add it to CONTAINER_IMAGES"
            )));
        }
        // Of a shorter form, the daemon might search its images for an id.
        let reference = image::canonical(executable);
        match pinned {
            Some(pinned) => self.pinned_image(pinned, &reference).await,
            None => self.named_image(&reference, &reference).await,
        }
    }

    /// The image that a reference stood for when its contract was loaded.
    async fn pinned_image(
        &self,
        pinned: &PinnedImage,
        reference: &str,
    ) -> Result<Image, StartError> {
        let PinnedImage { id, source } = pinned;
        if let Some(image) = self.find_image(id, Some(reference)).await? {
            return Ok(image);
        }
        let missing = || {
            StartError::ImageMissing(format!(
                "The image {id} of {reference} is not present, and cannot be pulled"
            ))
        };
        let source = source.as_deref().ok_or_else(missing)?;
        tracing::warn!(
            image = id,
            source,
            "contract image missing; pulling it by its digest"
        );
        let pulled = self.named_image(source, reference).await;
        pulled.map_err(|error| match error {
            StartError::Invalid(_) => missing(),
            other => other,
        })
    }

    /// The image that `name` stands for, from this daemon or its registry. `reference` is the
    /// contract's executable.
    async fn named_image(&self, name: &str, reference: &str) -> Result<Image, StartError> {
        if let Some(image) = self.find_image(name, Some(reference)).await? {
            return Ok(image);
        }
        self.pull(name).await?;
        let found = self.find_image(name, Some(reference)).await?;
        found.ok_or_else(|| {
            StartError::ImageUnavailable(format!(
                "The image {name} was removed right after it was pulled; try again"
            ))
        })
    }

    /// Looks for an image on this daemon. `reference` is the executable of its contract, or none if
    /// that is a tar.
    async fn find_image(
        &self,
        name: &str,
        reference: Option<&str>,
    ) -> Result<Option<Image>, StartError> {
        match self.daemon.inspect_image(name).await {
            Ok(found) => Ok(Some(describe(found, reference))),
            Err(cause) if error::status(&cause) == Some(404) => Ok(None),
            Err(cause) if error::status(&cause) == Some(400) => {
                tracing::warn!(
                    image = name,
                    reason = error::text(&cause),
                    "image reference refused"
                );
                Err(StartError::Invalid(format!(
                    "{name} is not an image reference"
                )))
            }
            Err(cause) => Err(error::unavailable("inspect an image", &cause)),
        }
    }

    async fn pull(&self, reference: &str) -> Result<(), StartError> {
        // It has a tag or a digest: without, the daemon would pull every tag of the image.
        let options = CreateImageOptionsBuilder::new()
            .from_image(reference)
            .build();
        let registry = self.config.registry.as_ref();
        let credentials = registry
            .filter(|registry| registry.host == image::registry(reference))
            .map(Registry::credentials);
        tracing::info!(image = reference, "image pull started");
        let mut progress = self.daemon.create_image(Some(options), None, credentials);
        while let Some(step) = progress.next().await {
            match step {
                Ok(step) => log(reference, &step),
                Err(cause) => return Err(pull_error(reference, &cause)),
            }
        }
        tracing::info!(image = reference, "image pulled");
        Ok(())
    }

    /// Loads a tar into the daemon.
    async fn tar_image(&self, text: &str) -> Result<Image, StartError> {
        // The thread gets a copy, because it may outlive the borrow if the load exceeds its limit.
        let (text, limit) = (text.to_owned(), self.config.tar_limit);
        let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
        let checking = tokio::task::spawn_blocking(move || {
            let checked = tar::check(&text, limit, sender.clone());
            if checked.is_err() {
                // The daemon must not treat the chunks that it has as a complete tar.
                let _ = sender.blocking_send(Err(std::io::ErrorKind::InvalidData.into()));
            }
            checked
        });
        let chunks = futures::stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let loaded: Result<Vec<_>, Error> = self
            .daemon
            .import_image_stream(options, chunks, None)
            .try_collect()
            .await;
        match checking.await {
            Ok(Ok(()) | Err(tar::TarError::DaemonStopped)) => {}
            Ok(Err(error)) => return Err(StartError::Invalid(error.to_string())),
            Err(error) => return Err(StartError::Unavailable(error.to_string())),
        }
        let steps = loaded.map_err(|cause| match &cause {
            Error::DockerStreamError { .. } | Error::DockerResponseServerError { .. } => {
                let reason = error::text(&cause);
                StartError::Invalid(format!("The image tar cannot be loaded: {reason}"))
            }
            _ => error::unavailable("load an image", &cause),
        })?;
        let id = steps
            .iter()
            .filter_map(|step| step.stream.as_deref())
            .find_map(|line| line.trim().strip_prefix("Loaded image ID: "))
            .ok_or_else(|| StartError::Invalid("The image tar contains no image".to_owned()))?;
        tracing::info!(image = id, "image loaded from tar");
        let found = self.find_image(id, None).await?;
        found.ok_or_else(|| {
            StartError::Unavailable(
                "The image was removed right after it was loaded; try again".to_owned(),
            )
        })
    }

    /// Removes the image of a tar, unless a container uses it or it has a name.
    pub(super) async fn remove_tar_image(&self, id: &str) -> Result<(), Error> {
        match self.daemon.inspect_image(id).await {
            Ok(image) if is_named(&image) => return Ok(()),
            Ok(_) => {}
            Err(error) => return error::unless_missing(Err(error)),
        }
        let options = RemoveImageOptionsBuilder::new().build();
        // Not forced, so the daemon refuses the removal while another container uses the image.
        error::unless_missing(
            self.daemon
                .remove_image(id, Some(options), None)
                .await
                .map(|_| ()),
        )
    }
}

fn is_named(image: &ImageInspect) -> bool {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    some(&image.repo_tags) || some(&image.repo_digests)
}

fn describe(found: ImageInspect, reference: Option<&str>) -> Image {
    let config = found.config.unwrap_or_default();
    let digests = found.repo_digests.unwrap_or_default();
    let exposed = tcp_ports(&config.exposed_ports.unwrap_or_default());
    Image {
        pin: PinnedImage {
            id: found.id.unwrap_or_default(),
            source: reference.and_then(|reference| source(&digests, reference)),
        },
        port: port(&exposed),
        exposed,
        architecture: found.architecture.filter(|name| !name.is_empty()),
        volumes: config.volumes.unwrap_or_default(),
        from_tar: reference.is_none(),
    }
}

/// The one of an image's references by digest that has the name of `reference`. An operator who
/// allows one name need not allow another one of the same image.
fn source(digests: &[String], reference: &str) -> Option<String> {
    let name = |reference: &str| {
        let named = reference
            .split_once('@')
            .map_or(reference, |(named, _)| named);
        image::canonical_name(image::split_tag(named).0)
    };
    let wanted = name(reference);
    let found = digests.iter().find(|digest| name(digest) == wanted)?;
    Some(image::canonical(found))
}

fn tcp_ports(exposed: &[String]) -> Vec<u16> {
    let tcp = |port: &String| {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        number.parse().ok().filter(|_| protocol == "tcp")
    };
    let mut ports: Vec<u16> = exposed.iter().filter_map(tcp).collect();
    ports.sort_unstable();
    ports
}

/// The single exposed port, or 8080.
const fn port(exposed: &[u16]) -> u16 {
    if let [port] = *exposed { port } else { PORT }
}

fn log(reference: &str, step: &CreateImageInfo) {
    let progress = step.progress_detail.as_ref();
    tracing::debug!(
        image = reference,
        layer = step.id,
        status = step.status,
        bytes = progress.and_then(|progress| progress.current),
        of = progress.and_then(|progress| progress.total),
        "image pull in progress"
    );
}

/// Decides from the registry's response whether a retry can succeed. The response is only for the
/// log: it tells about the daemon's network, and a caller must not learn what is there.
fn pull_error(reference: &str, cause: &Error) -> StartError {
    const PERMANENT: [&str; 6] = [
        "not found",
        "manifest unknown",
        "name unknown",
        "denied",
        "unauthorized",
        "no basic auth",
    ];
    let reason = error::text(cause);
    tracing::warn!(image = reference, reason, "image pull failed");
    let message =
        format!("The image {reference} cannot be pulled. The worker's log has the reason");
    let lower = reason.to_ascii_lowercase();
    if error::status(cause) == Some(404) || PERMANENT.iter().any(|text| lower.contains(text)) {
        StartError::Invalid(message)
    } else {
        StartError::ImageUnavailable(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_exposed_port_is_the_port_of_the_contract() {
        let port = |list: &[&str]| {
            let list: Vec<_> = list.iter().map(ToString::to_string).collect();
            port(&tcp_ports(&list))
        };
        assert_eq!(port(&[]), 8080);
        assert_eq!(port(&["3000/tcp"]), 3000);
        assert_eq!(port(&["3000/tcp", "53/udp"]), 3000);
        assert_eq!(port(&["3000/tcp", "3001/tcp"]), 8080);
        assert_eq!(port(&["53/udp"]), 8080);
    }

    #[test]
    fn an_image_is_pulled_again_under_its_own_name() {
        let digest = |name: &str, digit: &str| format!("{name}@sha256:{}", digit.repeat(64));
        let known = [digest("other/app", "1"), digest("acme/app", "2")];
        let source = |reference: &str| source(&known, reference);
        let found = Some(digest("docker.io/acme/app", "2"));
        assert_eq!(source("acme/app:1"), found);
        assert_eq!(source("docker.io/acme/app:latest"), found);
        assert_eq!(source(&digest("acme/app", "2")), found);
        assert_eq!(source("registry.example:5000/acme/app:1"), None);
    }

    #[test]
    fn pull_of_a_missing_image_is_not_retried() {
        let error = |status_code, message: &str| Error::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        };
        let judged = |cause: Error| pull_error("a", &cause);
        assert!(matches!(judged(error(404, "")), StartError::Invalid(_)));
        assert!(matches!(
            judged(error(500, "manifest unknown: x")),
            StartError::Invalid(_)
        ));
        assert!(matches!(
            judged(error(500, "dial tcp: timeout")),
            StartError::ImageUnavailable(_)
        ));
    }
}
