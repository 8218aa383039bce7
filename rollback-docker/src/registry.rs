//! Registries: fetching an image that the engine does not have, as the user whom the docker configuration names.
//!
//! The engine fetches; it is only handed the credentials. They are read anew for each call, from `config.json` (`auths`,
//! `credHelpers`, `credsStore`), and kept nowhere.

use crate::{connect::Engine, error, image::repository};
use bollard::{auth::DockerCredentials, query_parameters::CreateImageOptions};
use docker_credential::{CredentialRetrievalError as Cause, DockerCredential, get_credential_from_reader};
use futures::TryStreamExt as _;
use rollback_core::{Error, Kind, Result, atomic_file, seconds};
use std::time::Duration;
use tokio::{sync::oneshot, time::timeout};

/// Under which name the configuration has Docker's own registry.
const HUB: &str = "https://index.docker.io/v1/";
/// How long a credential helper may think: it may ask another server.
const HELPER_WITHIN: Duration = seconds(30);
/// How long a registry may take to say whether it has an image.
const ASK_WITHIN: Duration = seconds(15);
const MOST: u64 = 4 << 20;

/// Under which name the configuration has the registry of an image.
fn registry_of(name: &str) -> &str {
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => HUB,
    }
}

/// What is after the repository: a tag or a digest.
fn version_of(name: &str) -> &str {
    let rest = repository(name).and_then(|repository| name.strip_prefix(repository)).unwrap_or_default();
    match rest.split_once('@') {
        Some((_, digest)) => digest,
        None => rest.strip_prefix(':').unwrap_or("latest"),
    }
}

/// Fetches an image by its name.
///
/// # Errors
/// Without effect: [`Kind::Denied`] for credentials that are missing or wrong, [`Kind::NotFound`] for what the registry does
/// not have, [`Kind::Unavailable`] (transient) for a registry that is away or too slow.
pub(crate) async fn pull(engine: &Engine, name: &str, within: Duration) -> Result<()> {
    let operation = || format!("pull {name}");
    let Some(repository) = repository(name) else {
        let e = Error::new(Kind::NotFound, operation()).with_message("no registry has an image by its id alone");
        return Err(e.without_effect());
    };
    let credentials = credentials(engine, registry_of(name)).await?;
    let options = CreateImageOptions {
        from_image: Some(repository.to_owned()),
        tag: Some(version_of(name).to_owned()),
        ..CreateImageOptions::default()
    };
    let pulled = engine.client().create_image(Some(options), None, credentials).try_for_each(|_| async { Ok(()) });
    match timeout(within, pulled).await {
        Ok(pulled) => pulled.map_err(|e| error::registry(operation())(e).without_effect()),
        Err(_) => Err(Error::new(Kind::Unavailable, operation())
            .with_message(format!(
                "it was not there within {within:?}: pull it by hand, or allow more time for preparing"
            ))
            .without_effect()),
    }
}

/// Its registry has an image of this name. Nothing is fetched.
///
/// # Errors
/// As [`pull`].
pub(crate) async fn has(engine: &Engine, name: &str) -> Result<()> {
    let operation = || format!("find {name}, which the engine does not have, in its registry");
    if repository(name).is_none() {
        let e = Error::new(Kind::NotFound, operation()).with_message("no registry has an image by its id alone");
        return Err(e.without_effect());
    }
    let credentials = credentials(engine, registry_of(name)).await?;
    let asked = timeout(ASK_WITHIN, engine.client().inspect_registry_image(name, credentials)).await;
    match asked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) => Err(error::registry(operation())(e).without_effect()),
        Err(_) => {
            let why = format!("it does not answer within {ASK_WITHIN:?}: pull the image by hand");
            Err(Error::new(Kind::Unavailable, operation()).with_message(why).without_effect())
        }
    }
}

/// What the configuration has for a registry; none if it has nothing.
async fn credentials(engine: &Engine, registry: &str) -> Result<Option<DockerCredentials>> {
    let failed = |kind, why: &str| {
        let operation = format!("read the credentials for {registry}");
        Error::new(kind, operation).with_message(why.to_owned()).without_effect()
    };
    let Some(config) = atomic_file::read(&engine.config_dir().join("config.json"), MOST)? else { return Ok(None) };
    let (say, said) = oneshot::channel();
    let asked = registry.to_owned();
    // A thread of its own: a helper that hangs must not hold up the end of the program.
    std::thread::spawn(move || say.send(get_credential_from_reader(config.as_slice(), &asked)));
    let read = match timeout(HELPER_WITHIN, said).await {
        Ok(Ok(read)) => read,
        _ => return Err(failed(Kind::Unavailable, "its credential helper does not answer")),
    };
    let server = Some(registry.to_owned());
    match read {
        Ok(DockerCredential::UsernamePassword(name, password)) => Ok(Some(DockerCredentials {
            username: Some(name),
            password: Some(password),
            serveraddress: server,
            ..DockerCredentials::default()
        })),
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(DockerCredentials {
            identitytoken: Some(token),
            serveraddress: server,
            ..DockerCredentials::default()
        })),
        Err(Cause::NoCredentialConfigured) => Ok(None),
        // What every helper says of a registry that it does not know: an image may be had without.
        Err(Cause::HelperFailure { stdout, stderr, .. })
            if [&stdout, &stderr].iter().any(|text| text.contains("credentials not found")) =>
        {
            Ok(None)
        }
        // Not as the crate tells it: a helper may print anything.
        Err(Cause::HelperFailure { helper, .. }) => {
            Err(failed(Kind::Denied, &format!("{helper} failed: try docker login")))
        }
        Err(Cause::HelperCommunicationError | Cause::MalformedHelperResponse) => {
            Err(failed(Kind::Denied, "the credential helper that config.json names cannot be used: is it in PATH?"))
        }
        Err(Cause::CredentialDecodingError | Cause::CredentialMismatchError) => {
            Err(failed(Kind::Denied, "config.json does not say them as docker writes them: try docker login"))
        }
        Err(Cause::ConfigNotFound | Cause::ConfigReadError) => {
            Err(failed(Kind::Invalid, "config.json is not what docker writes"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_and_the_version_of_a_name() {
        for (name, registry, version) in [
            ("shop", HUB, "latest"),
            ("team/shop:2", HUB, "2"),
            ("localhost/shop:2", "localhost", "2"),
            ("registry:5000/team/shop", "registry:5000", "latest"),
            ("ghcr.io/team/shop:2@sha256:ab", "ghcr.io", "sha256:ab"),
        ] {
            assert_eq!((registry_of(name), version_of(name)), (registry, version), "{name}");
        }
    }
}
