//! Images: what a reference or a tar stands for on this daemon, and their removal.

use bollard::errors::Error;
use bollard::models::{CreateImageInfo, ImageInspect};
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ImportImageOptionsBuilder, RemoveImageOptionsBuilder,
};
use futures::{StreamExt, TryStreamExt};
use shared::protocol::image;
use tokio::sync::mpsc;

use super::{Docker, Registry, error, tar};
use crate::sandbox::StartError;

/// The port of a contract whose image does not name one, or names several.
const PORT: u16 = 8080;

/// Pieces of a tar that wait for the daemon.
const PIECES: usize = 4;

/// An image that is present.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// `sha256:...`, the digest of its configuration: containers are made of exactly this.
    pub(super) id: String,
    /// Where its contract listens.
    pub(super) port: u16,
    /// Folders that it wants to be volumes.
    pub(super) volumes: Vec<String>,
    /// Whether it came out of a tar: it has no name then, and goes with its last container.
    pub(super) from_tar: bool,
}

impl Docker {
    /// Makes sure that the executable's image is present. `known` is what it was before.
    pub(super) async fn image(
        &self,
        executable: &str,
        known: Option<&str>,
    ) -> Result<Image, StartError> {
        let reference = image::is_reference(executable);
        if let Some(id) = known {
            if let Some(image) = self.find_image(id, !reference).await? {
                return Ok(image);
            }
            tracing::warn!(image = id, "a contract's image is gone; getting it again");
        }
        if reference {
            self.named_image(executable).await
        } else {
            self.tar_image(executable).await
        }
    }

    async fn named_image(&self, reference: &str) -> Result<Image, StartError> {
        if let Some(image) = self.find_image(reference, false).await? {
            return Ok(image);
        }
        self.pull(reference).await?;
        let found = self.find_image(reference, false).await?;
        found.ok_or_else(|| StartError::Unavailable(format!("{reference} was pulled and is gone")))
    }

    async fn find_image(&self, name: &str, from_tar: bool) -> Result<Option<Image>, StartError> {
        match self.daemon.inspect_image(name).await {
            Ok(found) => Ok(Some(describe(found, from_tar))),
            Err(trouble) if error::status(&trouble) == Some(404) => Ok(None),
            Err(trouble) if error::status(&trouble) == Some(400) => {
                Err(StartError::Invalid(error::text(&trouble)))
            }
            Err(trouble) => Err(error::unavailable("look for an image", &trouble)),
        }
    }

    async fn pull(&self, reference: &str) -> Result<(), StartError> {
        // Without a tag the daemon would pull all there are.
        let tag = if reference.contains('@') || image::split_tag(reference).1.is_some() {
            ""
        } else {
            "latest"
        };
        let options = CreateImageOptionsBuilder::new()
            .from_image(reference)
            .tag(tag)
            .build();
        let registry = self.config.registry.as_ref();
        let credentials = registry
            .filter(|registry| registry.host == image::registry(reference))
            .map(Registry::credentials);
        tracing::info!(image = reference, "pulling an image");
        let mut progress = self.daemon.create_image(Some(options), None, credentials);
        while let Some(step) = progress.next().await {
            match step {
                Ok(step) => log(reference, &step),
                Err(trouble) => return Err(not_pulled(reference, &trouble)),
            }
        }
        tracing::info!(image = reference, "pulled an image");
        Ok(())
    }

    /// Loads a tar into the daemon.
    async fn tar_image(&self, text: &str) -> Result<Image, StartError> {
        // A copy for the thread: it may outlive the borrow when the load runs over its limit.
        let (text, limit) = (text.to_owned(), self.config.tar_limit);
        let (sender, receiver) = mpsc::channel(PIECES);
        let checking = tokio::task::spawn_blocking(move || {
            let checked = tar::check(&text, limit, sender.clone());
            if checked.is_err() {
                // The daemon must not take what it has for the whole.
                let _ = sender.blocking_send(Err(std::io::ErrorKind::InvalidData.into()));
            }
            checked
        });
        let pieces = futures::stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let loaded: Result<Vec<_>, Error> = self
            .daemon
            .import_image_stream(options, pieces, None)
            .try_collect()
            .await;
        match checking.await {
            Ok(Ok(()) | Err(tar::TarError::BrokenOff)) => {}
            Ok(Err(error)) => return Err(StartError::Invalid(error.to_string())),
            Err(error) => return Err(StartError::Unavailable(error.to_string())),
        }
        let said = loaded.map_err(|trouble| match &trouble {
            Error::DockerStreamError { .. } | Error::DockerResponseServerError { .. } => {
                let reason = error::text(&trouble);
                StartError::Invalid(format!("The image tar cannot be loaded: {reason}"))
            }
            _ => error::unavailable("load an image", &trouble),
        })?;
        let id = said
            .iter()
            .filter_map(|step| step.stream.as_deref())
            .find_map(|line| line.trim().strip_prefix("Loaded image ID: "))
            .ok_or_else(|| StartError::Invalid("The image tar holds no image".to_owned()))?;
        tracing::info!(image = id, "loaded an image");
        let found = self.find_image(id, true).await?;
        found.ok_or_else(|| StartError::Unavailable("the loaded image is gone".to_owned()))
    }

    /// Removes the image of a tar, unless somebody uses it or has given it a name.
    pub(super) async fn remove_tar_image(&self, id: &str) -> Result<(), Error> {
        match self.daemon.inspect_image(id).await {
            Ok(image) if is_named(&image) => return Ok(()),
            Ok(_) => {}
            Err(error) => return error::unless_missing(Err(error)),
        }
        let options = RemoveImageOptionsBuilder::new().build();
        // Not forced: it is refused while another container uses the image.
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

fn describe(found: ImageInspect, from_tar: bool) -> Image {
    let config = found.config.unwrap_or_default();
    Image {
        id: found.id.unwrap_or_default(),
        port: port(&config.exposed_ports.unwrap_or_default()),
        volumes: config.volumes.unwrap_or_default(),
        from_tar,
    }
}

/// The single exposed port, or 8080.
fn port(exposed: &[String]) -> u16 {
    let tcp = |port: &String| {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        number.parse().ok().filter(|_| protocol == "tcp")
    };
    let ports: Vec<u16> = exposed.iter().filter_map(tcp).collect();
    if let [port] = *ports { port } else { PORT }
}

fn log(reference: &str, step: &CreateImageInfo) {
    let progress = step.progress_detail.as_ref();
    tracing::debug!(
        image = reference,
        layer = step.id,
        status = step.status,
        bytes = progress.and_then(|progress| progress.current),
        of = progress.and_then(|progress| progress.total),
        "pulling"
    );
}

/// The registry's answer tells whether trying again is of use.
fn not_pulled(reference: &str, trouble: &Error) -> StartError {
    const NEVER: [&str; 6] = [
        "not found",
        "manifest unknown",
        "name unknown",
        "denied",
        "unauthorized",
        "no basic auth",
    ];
    let reason = error::text(trouble);
    let message = format!("The image {reference} cannot be pulled: {reason}");
    let lower = reason.to_ascii_lowercase();
    if error::status(trouble) == Some(404) || NEVER.iter().any(|never| lower.contains(never)) {
        StartError::Invalid(message)
    } else {
        StartError::Unavailable(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_exposed_port_is_the_contracts() {
        let port = |list: &[&str]| port(&list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(port(&[]), 8080);
        assert_eq!(port(&["3000/tcp"]), 3000);
        assert_eq!(port(&["3000/tcp", "53/udp"]), 3000);
        assert_eq!(port(&["3000/tcp", "3001/tcp"]), 8080);
        assert_eq!(port(&["53/udp"]), 8080);
    }

    #[test]
    fn an_image_that_does_not_exist_is_not_asked_for_again() {
        let error = |status_code, message: &str| Error::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        };
        let judged = |trouble: Error| not_pulled("a", &trouble);
        assert!(matches!(judged(error(404, "")), StartError::Invalid(_)));
        assert!(matches!(
            judged(error(500, "manifest unknown: x")),
            StartError::Invalid(_)
        ));
        assert!(matches!(
            judged(error(500, "dial tcp: timeout")),
            StartError::Unavailable(_)
        ));
    }
}
